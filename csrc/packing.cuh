// Packed text: the tokens of a sample, and the rows of it that a block computes.
//
// Rows: the G query heads that share a key head are consecutive rows, so row r of a sample is its token r / G and head
// r % G of the group. A key tile is read once for all of them, and dK, dV sum over the group in registers.
#pragma once

#include "primitives.cuh"

namespace hive {

constexpr float LOG2_E = 1.4426950408889634f;

struct Segment {
  int begin, length;
};

// A sample's first token. Every offset is read here, clamped to the tensor: wrong ones give wrong results, never an
// access outside.
HIVE_DEVICE int begin_of(const int32_t* offsets, int sample, int total) { return min(max(offsets[sample], 0), total); }

// A sample's tokens; without offsets every sample has `total` of them, from 0.
HIVE_DEVICE Segment segment(const int32_t* offsets, int sample, int total) {
  if (offsets == nullptr) return {0, total};
  const int begin = begin_of(offsets, sample, total);
  return {begin, max(begin_of(offsets, sample + 1, total), begin) - begin};
}

struct Slot {
  int sample;
  int row;  // the slot's first, within the sample
};

// The sample and first row of a slot of `rows` rows. A token is `group` rows. Sample b has the slots from
// b + offsets[b] * group / rows on, which are always enough; so total * group / rows + batch slots are enough for every
// packing, a number that is known without synchronising the device. The caller makes sure that an int holds the rows of
// that many slots.
HIVE_DEVICE Slot locate(int slot, const int32_t* offsets, int batch, int total, int group, int rows) {
  const auto first_slot = [=](int b) { return b + begin_of(offsets, b, total) * group / rows; };
  int before = 0;
  for (int first = 0; first < batch; first += block_threads()) {
    const int b = first + thread_index();
    before += count_in_block(b < batch && first_slot(b) <= slot);
  }
  const int sample = max(before - 1, 0);
  return {sample, max(slot - first_slot(sample), 0) * rows};
}

// A tensor of packed rows, with strides between tokens and heads; a head's elements are contiguous.
template <class T>
struct Rows {
  T* base;  // the sample's first token, the group's first head
  int64_t token, head;
  int group;

  HIVE_DEVICE T* at(int row) const { return base + row / group * token + row % group * head; }
};

}  // namespace hive
