// Launching a kernel on a CUDA stream; without nvcc, in the emulator.
#pragma once

#include "types.h"

#ifndef HIVE_EMULATED
#include "error.h"
#include "shared_memory.h"

namespace hive {

// Blocks (x, y) of `threads` threads with `shared` bytes of dynamic shared memory. Throws std::runtime_error.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int x, int y, int threads, uint32_t shared, Stream stream,
            const Arguments&... arguments) {
  if (x == 0 || y == 0) return;
  allow_shared_memory(reinterpret_cast<const void*>(kernel), shared);
  kernel<<<dim3(x, y), threads, shared, stream>>>(arguments...);
  check(cudaGetLastError(), "launching a kernel");
}

}  // namespace hive

#else
#include "emulator/block.h"

namespace hive {

namespace emulator {
inline int64_t last_launch[4];
}  // namespace emulator

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int x, int y, int threads, uint32_t shared, Stream,
            const Arguments&... arguments) {
  if (x == 0 || y == 0) return;
  emulator::last_launch[0] = x, emulator::last_launch[1] = y;
  emulator::last_launch[2] = threads, emulator::last_launch[3] = shared;
  emulator::Block::run_grid([&] { kernel(arguments...); }, x, y, threads, static_cast<int>(shared));
}

}  // namespace hive

#endif
