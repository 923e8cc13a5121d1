// Packed text: where a sample lies, and which of its rows a block covers.
//
// Rows: the G query heads that share a key head are packed below each other, so row r of a sample is its token r / G
// and, of the group, head r % G. A key tile is read once for all of them, and dK, dV sum over the group in registers.
#pragma once

#include "primitives.cuh"

namespace hive {

constexpr float LOG2_E = 1.4426950408889634f;

struct Segment {
  int begin, length;
};

// A sample's tokens; without offsets every sample has `total` of its own. Offsets are clamped to the tensor: wrong ones
// give wrong results, never an access outside.
HIVE_DEVICE Segment segment(const int32_t* offsets, int sample, int total) {
  if (offsets == nullptr) return {0, total};
  const int begin = min(max(offsets[sample], 0), total);
  return {begin, min(max(offsets[sample + 1], begin), total) - begin};
}

struct Slot {
  int sample;
  int row;  // its first, within the sample
};

// What a slot of `rows` rows covers. A token is `group` rows. Sample b owns the slots from
// b + offsets[b] * group / rows on, which are always enough; so total * group / rows + batch slots serve every packing,
// a number that is known without asking the device.
HIVE_DEVICE Slot locate(int slot, const int32_t* offsets, int batch, int group, int rows) {
  int before = 0;
  for (int first = 0; first < batch; first += block_threads()) {
    const int b = first + thread_index();
    before += count_in_block(b < batch && b + static_cast<int64_t>(offsets[b]) * group / rows <= slot);
  }
  const int sample = max(before - 1, 0);
  const int64_t row = (slot - sample - static_cast<int64_t>(offsets[sample]) * group / rows) * rows;
  return {sample, static_cast<int>(max(row, int64_t{0}))};
}

// A tensor of packed rows: heads and tokens apart by strides, a head's elements contiguous.
template <class T>
struct Rows {
  T* base;  // the sample's first token, the group's first head
  int64_t token, head;
  int group;

  HIVE_DEVICE T* at(int row) const { return base + row / group * token + row % group * head; }
};

}  // namespace hive
