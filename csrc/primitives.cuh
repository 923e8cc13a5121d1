// The instructions that the kernels use, as functions named for what they do. A lane of a warp has a part of a matrix,
// which each function's comment describes, with g = lane / 4 and t = lane % 4.
//
// With HIVE_EMULATED, emulator/primitives.h gives the same functions on a CPU: the kernels' tests run there.
#pragma once

#include <cstdint>
#include <type_traits>

#ifdef HIVE_EMULATED
#include "emulator/primitives.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define HIVE_KERNEL(threads) __global__ void __launch_bounds__(threads)
#define HIVE_DEVICE __device__ __forceinline__
#define HIVE_GRID_CONSTANT __grid_constant__

namespace hive {

using Half = __half;
using BFloat16 = __nv_bfloat16;

extern __shared__ __align__(128) unsigned char dynamic_shared[];

HIVE_DEVICE int thread_index() {
  __builtin_assume(threadIdx.x < 1024);  // so that the compiler divides as for unsigned numbers
  return threadIdx.x;
}

// Reads the register again, so that values computed from it needn't be kept in registers.
HIVE_DEVICE int thread_index_again() {
  unsigned index;
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(index));
  __builtin_assume(index < 1024);
  return index;
}

HIVE_DEVICE int block_threads() { return blockDim.x; }
HIVE_DEVICE int block_x() { return blockIdx.x; }
HIVE_DEVICE int block_y() { return blockIdx.y; }
HIVE_DEVICE int grid_y() { return gridDim.y; }

// ---- shared memory: an address is a byte offset from the block's first byte

template <class T>
HIVE_DEVICE T& shared(uint32_t address) {
  return *reinterpret_cast<T*>(dynamic_shared + address);
}

HIVE_DEVICE uint32_t hardware_address(uint32_t address) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(dynamic_shared)) + address;
}

// Copies 16 bytes from global to shared memory, asynchronously; zeros unless inside. Addresses are 16-byte aligned.
HIVE_DEVICE void copy_async(uint32_t to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(hardware_address(to)), "l"(from),
               "r"(inside ? 16 : 0)
               : "memory");
}

// Waits for all of the calling thread's copies; after a barrier, other threads see them too.
HIVE_DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;\n" ::: "memory"); }

HIVE_DEVICE void synchronize_block() { __syncthreads(); }

// A barrier of THREADS threads that share a number from 1 to 15.
template <int NUMBER, int THREADS>
HIVE_DEVICE void synchronize_group() {
  static_assert(NUMBER > 0 && NUMBER < 16 && THREADS % 32 == 0);
  asm volatile("bar.sync %0, %1;\n" ::"n"(NUMBER), "n"(THREADS) : "memory");
}

// The number of the block's threads in which `condition` holds; also a barrier.
HIVE_DEVICE int count_in_block(bool condition) { return __syncthreads_count(condition); }

// ---- warps

HIVE_DEVICE float from_lane_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// Loads four 8 x 8 matrices of 16-bit elements. Lane 8 i + r passes the address of row r of matrix i, 16 bytes, 16-byte
// aligned. Register i receives row g, columns 2 t and 2 t + 1, of matrix i.
HIVE_DEVICE void load_matrices(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(hardware_address(address))
               : "memory");
}

// As load_matrices, each matrix transposed: register i receives rows 2 t and 2 t + 1 of column g.
HIVE_DEVICE void load_matrices_transposed(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(hardware_address(address))
               : "memory");
}

// c [16, 8] += a [16, 16] b [16, 8] on tensor cores, fp32 sums.
//   a: rows g, g + 8, g, g + 8, columns 2 t and 2 t + 1, plus 8 in the last two registers
//   b: column g, rows 2 t and 2 t + 1, plus 8 in the second register
//   c: rows g, g, g + 8, g + 8, columns 2 t, 2 t + 1, 2 t, 2 t + 1
template <class T>
HIVE_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, Half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// ---- numbers

HIVE_DEVICE float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
  return result;
}

HIVE_DEVICE float to_float(float x) { return x; }
HIVE_DEVICE float to_float(Half x) { return __half2float(x); }
HIVE_DEVICE float to_float(BFloat16 x) { return __bfloat162float(x); }

template <class T>
HIVE_DEVICE T rounded(float x) {
  if constexpr (std::is_same_v<T, Half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    static_assert(std::is_same_v<T, float>);
    return x;
  }
}

// Two numbers as a register of an operand: the first in the low half.
template <class T>
HIVE_DEVICE uint32_t pack(float low, float high) {
  uint32_t result;
  if constexpr (std::is_same_v<T, Half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(result) : "f"(high), "f"(low));
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(result) : "f"(high), "f"(low));
  }
  return result;
}

// The inverse of pack.
template <class T>
HIVE_DEVICE void unpack(float (&to)[2], uint32_t pair) {
  const float2 both = [&] {
    if constexpr (std::is_same_v<T, Half>) {
      return __half22float2(reinterpret_cast<const __half2&>(pair));
    } else {
      static_assert(std::is_same_v<T, BFloat16>);
      return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
    }
  }();
  to[0] = both.x;
  to[1] = both.y;
}

}  // namespace hive

#endif
