"""What ``make gpu`` does: a plan of steps, each a child process, run by a parent that touches no GPU and keeps all."""
