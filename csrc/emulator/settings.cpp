// Functions through which tests set and read the emulator's state, with ctypes.
#include "emulator/block.h"
#include "launch.h"

extern "C" {

void hive_emulator_timing(bool last_warp_first, bool copies_at_once) {
  hive::emulator::timing = {last_warp_first, copies_at_once};
}

int64_t hive_emulator_bank_conflicts() { return hive::emulator::Block::bank_conflicts; }

// The last launch: blocks along x and y, threads, and bytes of shared memory.
const int64_t* hive_emulator_last_launch() { return hive::emulator::last_launch; }
}
