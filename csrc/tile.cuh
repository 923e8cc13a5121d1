// Matrices of 16-bit elements in shared memory, and the operands that tensor cores read from them.
#pragma once

#include "primitives.cuh"

namespace hive {

// [ROWS, COLUMNS], row-major in pieces of 16 bytes, swizzled: a piece's index within its line of 128 bytes is xored
// with the line's number, so that the same piece of eight consecutive rows, which load_matrices reads at a time, is in
// eight different groups of banks.
template <int COLUMNS>
struct Tile {
  static constexpr int ROW_BYTES = 2 * COLUMNS;
  static constexpr int PIECES = COLUMNS / 8;
  static_assert(COLUMNS == 32 || COLUMNS == 64 || COLUMNS == 128, "a row is half a line, a line or two");

  uint32_t address;  // a multiple of 128

  template <int ROWS>
  static constexpr uint32_t bytes = ROWS * ROW_BYTES;

  static HIVE_DEVICE uint32_t swizzled(int row, int piece) {
    const int line = COLUMNS == 32 ? (row >> 1) & 3 : row & 7;
    return row * ROW_BYTES + ((piece ^ line) << 4);
  }

  HIVE_DEVICE uint32_t piece(int row, int piece) const { return address + swizzled(row, piece); }

  // This lane's address in a warp's sums [8, 8] that begin at row, column: row g, columns 2 t and 2 t + 1.
  HIVE_DEVICE uint32_t sums(int row, int column) const {
    const int lane = thread_index() % 32;
    return step(row, column, lane / 4, 0) + lane % 4 * 4;
  }

  // Copies rows first to first + ROWS - 1, those below `stop`; the others become zeros. `row` gives each one's address,
  // and is asked for rows below `stop` only.
  template <int ROWS, int THREADS, class Row>
  HIVE_DEVICE void copy(Row row, int first, int stop) const {
    static_assert(THREADS % PIECES == 0 && ROWS % (THREADS / PIECES) == 0, "every thread copies alike");
    const int mine = thread_index() % PIECES;
#pragma unroll
    for (int start = 0; start < ROWS; start += THREADS / PIECES) {
      const int r = start + thread_index() / PIECES;
      const bool inside = first + r < stop;
      copy_async(piece(r, mine), row(inside ? first + r : first) + 8 * mine, inside);
    }
  }

  // The operands below are those of a step of 16 along the sum. Of four registers, i = 0 to 3:
  //   an operand a [16, 16] has register i as its register i
  //   b [16, 16], two operands [16, 8] side by side, has register i as register i % 2 of operand i / 2

  // a[m, k] = tile[row + m, column + k]
  HIVE_DEVICE void a(uint32_t (&to)[4], int row, int column) const { load_matrices(to, low(row, column)); }
  // a[m, k] = tile[row + k, column + m]
  HIVE_DEVICE void a_transposed(uint32_t (&to)[4], int row, int column) const {
    load_matrices_transposed(to, high(row, column));
  }
  // b[k, n] = tile[row + k, column + n]
  HIVE_DEVICE void b(uint32_t (&to)[4], int row, int column) const { load_matrices_transposed(to, low(row, column)); }
  // b[k, n] = tile[row + n, column + k]
  HIVE_DEVICE void b_transposed(uint32_t (&to)[4], int row, int column) const { load_matrices(to, high(row, column)); }

 private:
  // A lane's address if matrix 1 is below matrix 0, and 2 and 3 are to their right.
  HIVE_DEVICE uint32_t low(int row, int column) const {
    const int lane = thread_index() % 32;
    return step(row, column, lane % 16, lane / 16);
  }
  // A lane's address if matrix 1 is to the right of matrix 0, and 2 and 3 are below them.
  HIVE_DEVICE uint32_t high(int row, int column) const {
    const int lane = thread_index() % 32;
    return step(row, column, lane % 8 + lane / 16 * 8, lane / 8 % 2);
  }
  // piece(row + lane_row, column / 8 + lane_piece) where neither addition carries into the other's bits: `row` is a
  // multiple of 8, and of 16 for lane_row above 7. The part that depends on the lane is the same for all of a kernel's
  // steps, and the rest is known at compile time.
  HIVE_DEVICE uint32_t step(int row, int column, int lane_row, int lane_piece) const {
    return address + row * ROW_BYTES + (swizzled(lane_row, lane_piece) ^ (column / 8 << 4));
  }
};

// c += a b with b [16, 16] as Tile::b gives it: two neighbouring pieces of c.
template <class T>
HIVE_DEVICE void multiply_add_pair(float (&left)[4], float (&right)[4], const uint32_t (&a)[4],
                                   const uint32_t (&b)[4]) {
  multiply_add<T>(left, a, b[0], b[1]);
  multiply_add<T>(right, a, b[2], b[3]);
}

// The sum c [16, 16], in two pieces, as an operand a of the next product: lanes hold the same elements of both.
template <class T>
HIVE_DEVICE void as_operand(uint32_t (&to)[4], const float (&left)[4], const float (&right)[4]) {
  to[0] = pack<T>(left[0], left[1]);
  to[1] = pack<T>(left[2], left[3]);
  to[2] = pack<T>(right[0], right[1]);
  to[3] = pack<T>(right[2], right[3]);
}

// Writes row g, or g + 8 with `lower`, of a warp's [16, 8 PIECES] sums; a lane writes its two columns of every piece.
template <class T, int PIECES>
HIVE_DEVICE void store_row(T* row, const float (&sums)[PIECES][4], int lower, float factor) {
#pragma unroll
  for (int n = 0; n < PIECES; ++n) {
    const uint32_t pair = pack<T>(sums[n][2 * lower] * factor, sums[n][2 * lower + 1] * factor);
    *reinterpret_cast<uint32_t*>(row + 8 * n + 2 * (thread_index() % 4)) = pair;
  }
}

}  // namespace hive
