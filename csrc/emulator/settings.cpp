// Functions through which tests set and read the emulator's state, with ctypes.
#include "emulator/block.h"
#include "emulator/memory.h"
#include "launch.h"

extern "C" {

void hive_emulator_timing(bool last_warp_first, bool copies_at_once) {
  hive::emulator::timing = {last_warp_first, copies_at_once};
}

// Of every grid only this many blocks run, its last ones.
void hive_emulator_last_blocks(int64_t count) { hive::emulator::last_blocks = count; }

int64_t hive_emulator_allocated_bytes() { return hive::emulator::allocated_bytes; }

int64_t hive_emulator_bank_conflicts() { return hive::emulator::Block::bank_conflicts; }

// The last launch: blocks along x and y, threads, and bytes of shared memory.
const int64_t* hive_emulator_last_launch() { return hive::emulator::last_launch; }
}
