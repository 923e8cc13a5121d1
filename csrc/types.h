// Types that host code and kernels share, without CUDA's headers.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace hive {

using Stream = CUstream_st*;  // cudaStream_t

enum class Element { half, bfloat16, single };

}  // namespace hive
