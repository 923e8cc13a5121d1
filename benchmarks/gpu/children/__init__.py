"""The programs that the steps of ``make gpu`` run. All that touches the GPU is in here."""
