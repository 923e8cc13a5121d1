// CUDA's errors as exceptions, which torch shows its user.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace hive {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  const char* remedy = error == cudaErrorNoKernelImageForDevice ? "; build for it too: HIVE_CUDA_ARCHITECTURES" : "";
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error) + remedy);
}

}  // namespace hive
