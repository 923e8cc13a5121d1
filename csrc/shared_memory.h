// More shared memory than a kernel has without asking.
#pragma once

#include <cstdint>
#include <mutex>
#include <set>
#include <utility>

#include "error.h"

namespace hive {

constexpr uint32_t SHARED_WITHOUT_ASKING = 48 * 1024;

// Lets the kernel use `bytes` of dynamic shared memory, which are the same at each of its launches, on the current
// device. CUDA is asked once per kernel and device.
inline void allow_shared_memory(const void* kernel, uint32_t bytes) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  if (bytes <= SHARED_WITHOUT_ASKING) return;
  int device = 0;
  check(cudaGetDevice(&device), "asking for the device");
  const std::lock_guard lock(mutex);
  if (allowed.count({kernel, device}) > 0) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "asking for shared memory");
  allowed.insert({kernel, device});
}

}  // namespace hive
