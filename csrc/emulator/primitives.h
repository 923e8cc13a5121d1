// The functions of primitives.cuh on a CPU, computed from whole matrices that are laid out as in the PTX manual.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "emulator/block.h"

#define HIVE_KERNEL(threads) void
#define HIVE_DEVICE inline
#define HIVE_GRID_CONSTANT

namespace hive {

using Half = c10::Half;
using BFloat16 = c10::BFloat16;
using std::max;
using std::min;

inline int thread_index() { return emulator::Block::current().thread(); }
inline int thread_index_again() { return thread_index(); }
inline int block_threads() { return emulator::Block::current().threads(); }
inline int block_x() { return emulator::Block::current().x; }
inline int block_y() { return emulator::Block::current().y; }
inline int grid_y() { return emulator::Block::current().grid_y; }

template <class T>
T& shared(uint32_t address) {
  return *reinterpret_cast<T*>(emulator::Block::current().shared(address, sizeof(T)));
}

inline void copy_async(uint32_t to, const void* from, bool inside) {
  emulator::Block::current().copy({to, from, inside});
}
inline void wait_for_copies() { emulator::Block::current().wait_for_copies(); }
inline void synchronize_block() { emulator::Block::current().barrier(0, block_threads(), false); }
template <int NUMBER, int THREADS>
void synchronize_group() {
  emulator::Block::current().barrier(NUMBER, THREADS, false);
}
inline int count_in_block(bool condition) { return emulator::Block::current().barrier(0, block_threads(), condition); }

inline float from_lane_xor(float value, int mask) {
  struct Operands {
    float value;
    int mask;
  } mine{value, mask};
  emulator::Block::current().together("shuffle", &mine, [](void* const* lanes) {
    float before[emulator::WARP];
    for (int i = 0; i < emulator::WARP; ++i) before[i] = static_cast<Operands*>(lanes[i])->value;
    for (int i = 0; i < emulator::WARP; ++i) {
      auto* lane = static_cast<Operands*>(lanes[i]);
      lane->value = before[i ^ lane->mask];
    }
  });
  return mine.value;
}

namespace emulator {

struct Matrices {
  uint32_t address;
  uint16_t halves[4][2];
};

inline void load(uint32_t (&to)[4], uint32_t address, bool transposed) {
  Matrices mine{address, {}};
  Block::current().together(transposed ? "load_matrices_transposed" : "load_matrices", &mine, [=](void* const* lanes) {
    for (int i = 0; i < 4; ++i) {
      uint16_t matrix[8][8];
      int uses[8] = {};  // of the eight groups of banks, 16 bytes each
      for (int row = 0; row < 8; ++row) {
        const uint32_t from = static_cast<Matrices*>(lanes[8 * i + row])->address;
        std::memcpy(matrix[row], Block::current().shared(from, 16), 16);
        ++uses[from / 16 % 8];
      }
      Block::bank_conflicts += *std::max_element(uses, uses + 8) - 1;
      for (int lane = 0; lane < WARP; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int j = 0; j < 2; ++j) {
          static_cast<Matrices*>(lanes[lane])->halves[i][j] = transposed ? matrix[2 * t + j][g] : matrix[g][2 * t + j];
        }
      }
    }
  });
  std::memcpy(to, mine.halves, sizeof(mine.halves));
}

}  // namespace emulator

// The two elements of a register.
template <class T>
void unpack(float (&to)[2], uint32_t pair) {
  T halves[2];
  std::memcpy(halves, &pair, 4);
  to[0] = static_cast<float>(halves[0]), to[1] = static_cast<float>(halves[1]);
}

inline void load_matrices(uint32_t (&to)[4], uint32_t address) { emulator::load(to, address, false); }
inline void load_matrices_transposed(uint32_t (&to)[4], uint32_t address) { emulator::load(to, address, true); }

template <class T>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    float* c;
    uint32_t a[4], b[2];
  } mine{c, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulator::Block::current().together("multiply_add", &mine, [](void* const* lanes) {
    float A[16][16], B[16][8];
    for (int lane = 0; lane < emulator::WARP; ++lane) {
      const auto& operands = *static_cast<Operands*>(lanes[lane]);
      const int g = lane / 4, t = lane % 4;
      float pair[2];
      for (int i = 0; i < 4; ++i) {
        unpack<T>(pair, operands.a[i]);
        for (int j = 0; j < 2; ++j) A[g + i % 2 * 8][2 * t + j + i / 2 * 8] = pair[j];
      }
      for (int i = 0; i < 2; ++i) {
        unpack<T>(pair, operands.b[i]);
        for (int j = 0; j < 2; ++j) B[2 * t + j + 8 * i][g] = pair[j];
      }
    }
    for (int lane = 0; lane < emulator::WARP; ++lane) {
      float* sums = static_cast<Operands*>(lanes[lane])->c;
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
        for (int k = 0; k < 16; ++k) sums[i] += A[row][k] * B[k][column];
      }
    }
  });
}

inline float exp2_fast(float x) { return std::exp2(x); }

inline float to_float(float x) { return x; }
inline float to_float(Half x) { return static_cast<float>(x); }
inline float to_float(BFloat16 x) { return static_cast<float>(x); }

template <class T>
T rounded(float x) {
  return static_cast<T>(x);
}

template <class T>
uint32_t pack(float low, float high) {
  const T halves[2] = {rounded<T>(low), rounded<T>(high)};
  uint32_t bits;
  std::memcpy(&bits, halves, 4);
  return bits;
}

}  // namespace hive
