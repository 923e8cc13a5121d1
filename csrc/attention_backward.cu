// The gradients of attention in one pass: five products per key tile; a kernel for dQ and one for dK and dV need seven.
//
// A block has one sample and key head. Queries and output gradients of ROWS packed rows stay in shared memory and their
// dQ in registers, while the block loops over tiles of 64 keys. A group of four warps has 32 rows of every chunk. Each
// warp has 16 of the keys and computes scores transposed, [keys, rows]: then each lane already has the weights and
// their gradients that its operands of the products for dV and dK need. Only the gradients of scores go through shared
// memory, to dQ's product, in which a warp has 16 of the group's rows and half of the columns.
//
// Nothing is added with atomics: every output has one writer, and two groups' parts of dK and dV are added in a fixed
// order. For a text with more rows the block loops over ROWS at a time and keeps dK and dV in fp32 in between.
//
// Only such long texts need room for these sums. Which ones they are isn't known without synchronising the device, but
// they can't be more than the tokens of all texts divided by those of the shortest long one; and the first tokens of two
// long texts, divided by that length, are different numbers: their places.
#include "attention.h"
#include "launch.h"
#include "packing.cuh"
#include "tile.cuh"

namespace hive {
namespace {

constexpr int KEYS = 64, CHUNK = 32, GROUP_THREADS = 128;
constexpr float INF = __builtin_huge_valf(), NOT_A_NUMBER = __builtin_nanf("");

// GROUPS groups of four warps, CHUNKS chunks of 32 rows for each.
template <class T_, int D_, int GROUPS_, int CHUNKS_>
struct Shape {
  using T = T_;
  static constexpr int D = D_, GROUPS = GROUPS_, CHUNKS = CHUNKS_;
  static constexpr int ROWS = GROUPS * CHUNKS * CHUNK;
  static constexpr int THREADS = GROUPS * GROUP_THREADS;
  static_assert(GROUPS == 1 || GROUPS == 2, "a group exchanges its part of dK or dV with one other");
  static_assert(ROWS <= MOST_ROWS && KEYS <= MOST_ROWS);

  // Byte offsets in shared memory. A group writes one of its two tiles of dS while the other is read.
  static constexpr uint32_t q = 0;
  static constexpr uint32_t dout = q + Tile<D>::template bytes<ROWS>;
  static constexpr uint32_t k = dout + Tile<D>::template bytes<ROWS>;
  static constexpr uint32_t v = k + Tile<D>::template bytes<KEYS>;
  static constexpr uint32_t dscores = v + Tile<D>::template bytes<KEYS>;
  // The groups exchange sums in the same memory, when no dS is needed.
  static constexpr uint32_t dscores_bytes = 2 * GROUPS * Tile<CHUNK>::template bytes<KEYS>;
  static constexpr uint32_t exchange_bytes = (GROUPS - 1) * KEYS * D * 4;
  static constexpr uint32_t lse = dscores + (dscores_bytes > exchange_bytes ? dscores_bytes : exchange_bytes);
  static constexpr uint32_t delta = lse + ROWS * 4;
  static constexpr uint32_t bytes = delta + ROWS * 4;
  static_assert(bytes <= 101376, "what a block of an RTX 3090 may have");
};

// A value of a row and of the next one.
struct alignas(8) Pair {
  float of[2];
};

// A warp's dK or dV of its 16 keys, [16, D].
template <int D>
using KeySums = float[D / 8][4];

// The parts of the work that a thread's warp has, and its lane's g and t (primitives.cuh).
struct Warp {
  int group, keys, row, half, g, t;

  explicit HIVE_DEVICE Warp(int thread)
      : group(thread / GROUP_THREADS),
        keys(thread / 32 % 4 * 16),  // its warp's 16 keys of a tile
        row(thread / 32 % 2 * 16),   // for dQ: its warp's 16 rows of a chunk,
        half(thread / 64 % 2),       // and its half of the columns
        g(thread % 32 / 4),
        t(thread % 4) {}
};

// sums [16, 32] = x y^T, with a warp's 16 rows of tile x and 32 rows of tile y.
template <class T, int D>
HIVE_DEVICE void multiply_transposed(float (&sums)[4][4], Tile<D> x, int x_row, Tile<D> y, int y_row) {
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    for (int i = 0; i < 4; ++i) sums[n][i] = 0;
  }
#pragma unroll
  for (int d = 0; d < D; d += 16) {
    uint32_t a[4], b[4];
    x.a(a, x_row, d);
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
      y.b_transposed(b, y_row + 8 * n, d);
      multiply_add_pair<T>(sums[n], sums[n + 1], a, b);
    }
  }
}

// sums [16, D] += x y, with a warp's sums x [16, 32] and 32 rows y of a tile.
template <class T, int D>
HIVE_DEVICE void add_product(KeySums<D>& sums, const float (&x)[4][4], Tile<D> y, int y_row) {
#pragma unroll
  for (int n = 0; n < 4; n += 2) {
    uint32_t a[4], b[4];
    as_operand<T>(a, x[n], x[n + 1]);
#pragma unroll
    for (int d = 0; d < D; d += 16) {
      y.b(b, y_row + 8 * n, d);
      multiply_add_pair<T>(sums[d / 8], sums[d / 8 + 1], a, b);
    }
  }
}

// Adds 32 rows to a warp's dK and dV, and writes its keys' dS [keys, rows] to `dscores`.
template <class S>
HIVE_DEVICE void add_to_keys(KeySums<S::D>& dk, KeySums<S::D>& dv, Tile<CHUNK> dscores, int row, const Warp& warp,
                             float scale, int keys) {
  using T = typename S::T;
  using Operand = Tile<S::D>;
  float weights[4][4], gradients[4][4];
  multiply_transposed<T>(weights, Operand{S::k}, warp.keys, Operand{S::q}, row);
  multiply_transposed<T>(gradients, Operand{S::v}, warp.keys, Operand{S::dout}, row);
#pragma unroll
  for (int n = 0; n < 4; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Rows and keys that don't exist get weight 0: such rows have an lse of +inf.
      const uint32_t statistic = (row + 8 * n + 2 * warp.t) * 4;
      const Pair lse = shared<Pair>(S::lse + statistic), delta = shared<Pair>(S::delta + statistic);
      const bool exists = warp.keys + warp.g + i / 2 * 8 < keys;
      const float weight = exists ? exp2_fast(weights[n][i] * scale - lse.of[i % 2]) : 0;
      gradients[n][i] = weight * (gradients[n][i] - delta.of[i % 2]);
      weights[n][i] = weight;
    }
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      shared<uint32_t>(dscores.sums(warp.keys + 8 * lower, 8 * n)) =
          pack<T>(gradients[n][2 * lower], gradients[n][2 * lower + 1]);
    }
  }
  add_product<T>(dv, weights, Operand{S::dout}, row);
  add_product<T>(dk, gradients, Operand{S::q}, row);
}

// dq [16, D / 2] += dS K over the key tile, for a warp's rows of the chunk and its half of the columns.
template <class S>
HIVE_DEVICE void add_to_queries(float (&dq)[S::D / 16][4], Tile<CHUNK> dscores, const Warp& warp) {
#pragma unroll
  for (int step = 0; step < KEYS; step += 16) {
    uint32_t a[4], b[4];
    dscores.a_transposed(a, step, warp.row);
#pragma unroll
    for (int d = 0; d < S::D / 2; d += 16) {
      Tile<S::D>{S::k}.b(b, step, warp.half * (S::D / 2) + d);
      multiply_add_pair<typename S::T>(dq[d / 8], dq[d / 8 + 1], a, b);
    }
  }
}

// A barrier of the four warps of a group. The instruction has the barrier's number as an immediate.
template <class S>
HIVE_DEVICE void synchronize_warps_of(const Warp& warp) {
  if constexpr (S::GROUPS == 1) {
    synchronize_block();
  } else if (warp.group == 0) {
    synchronize_group<1, GROUP_THREADS>();
  } else {
    synchronize_group<2, GROUP_THREADS>();
  }
}

// Adds the groups' parts: the first group gets all of dV, the second all of dK. The same thread of either group has the
// same elements.
template <class S>
HIVE_DEVICE void exchange(KeySums<S::D>& dk, KeySums<S::D>& dv, const Warp& warp) {
  const uint32_t mine = S::dscores + thread_index() % GROUP_THREADS * 4;
  const auto give = [&](const KeySums<S::D>& sums) {
#pragma unroll
    for (int n = 0; n < S::D / 2; ++n) shared<float>(mine + n * GROUP_THREADS * 4) = sums[n / 4][n % 4];
  };
  const auto take = [&](KeySums<S::D>& sums) {
#pragma unroll
    for (int n = 0; n < S::D / 2; ++n) sums[n / 4][n % 4] += shared<float>(mine + n * GROUP_THREADS * 4);
  };
  if (warp.group == 1) give(dv);
  synchronize_block();
  if (warp.group == 0) {
    take(dv);
    give(dk);  // overwrites only what this thread has taken
  }
  synchronize_block();
  if (warp.group == 1) take(dk);
}

// Adds the sums that earlier rows of the text wrote to `room`, and writes the result there for later rows. A thread
// reads and writes only its elements.
template <int D>
HIVE_DEVICE void accumulate(KeySums<D>& sums, float* room, bool first, bool last) {
  float* mine = room + thread_index() % GROUP_THREADS;
#pragma unroll
  for (int n = 0; n < D / 2; ++n) {
    if (!first) sums[n / 4][n % 4] += mine[n * GROUP_THREADS];
    if (!last) mine[n * GROUP_THREADS] = sums[n / 4][n % 4];
  }
}

template <class T, int D>
HIVE_DEVICE void store_keys(T* tile, int64_t stride, const KeySums<D>& sums, const Warp& warp, float factor, int keys) {
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    const int key = warp.keys + warp.g + 8 * lower;
    if (key < keys) store_row(tile + key * stride, sums, lower, factor);
  }
}

// The block's text. It is read again wherever it is needed, so that it occupies no registers in the loop over keys.
HIVE_DEVICE Segment block_text(const Attention& p) { return segment(p.offsets_q, block_x(), p.tokens); }

// The block's rows of a tensor.
template <class T>
HIVE_DEVICE Rows<T> block_rows(const Attention& p, T* base, Segment text, int64_t token, int64_t head) {
  return {base + text.begin * token + int64_t{block_y()} * p.group * head, token, head, p.group};
}

// Loads rows first to first + ROWS - 1: queries and output gradients, asynchronously; lse; and delta = sum(out dout).
// Rows that don't exist get an lse of +inf, with which every weight is 0.
template <class S>
HIVE_DEVICE void load_rows(const Attention& p, const BackwardTensors& r, int first) {
  using T = typename S::T;
  constexpr int D = S::D, LANES = 8;  // per row, for delta
  const Segment text = block_text(p);
  const int rows = text.length * p.group;
  const int64_t heads = int64_t{p.key_heads} * p.group;
  const Rows<const T> q = block_rows(p, static_cast<const T*>(p.q), text, p.q_token, p.q_head);
  const Rows<const T> dout = block_rows(p, static_cast<const T*>(r.dout), text, r.dout_token, r.dout_head);
  const Rows<const T> out = block_rows(p, static_cast<const T*>(r.out), text, heads * D, D);
  const Rows<const float> lse = block_rows(p, r.lse, text, heads, 1);
  const Tile<D> q_tile{S::q}, dout_tile{S::dout};
  q_tile.template copy<S::ROWS, S::THREADS>([&](int n) { return q.at(n); }, first, rows);
  dout_tile.template copy<S::ROWS, S::THREADS>([&](int n) { return dout.at(n); }, first, rows);
  static_assert(S::ROWS % (S::THREADS / LANES) == 0, "all lanes of a warp exchange sums");
  for (int row = thread_index() / LANES; row < S::ROWS; row += S::THREADS / LANES) {
    const bool inside = first + row < rows;
    float delta = 0;
    for (int d = 2 * (thread_index() % LANES); inside && d < D; d += 2 * LANES) {
      float a[2], b[2];
      unpack<T>(a, *reinterpret_cast<const uint32_t*>(out.at(first + row) + d));
      unpack<T>(b, *reinterpret_cast<const uint32_t*>(dout.at(first + row) + d));
      delta += a[0] * b[0] + a[1] * b[1];
    }
    for (int mask = 1; mask < LANES; mask *= 2) delta += from_lane_xor(delta, mask);
    if (thread_index() % LANES == 0) {
      shared<float>(S::delta + 4 * row) = delta;
      shared<float>(S::lse + 4 * row) = inside ? *lse.at(first + row) : INF;
    }
  }
}

// Writes dQ of the rows from `first` on.
template <class S>
HIVE_DEVICE void store_rows(const Attention& p, const BackwardTensors& r, int first,
                            const float (&dq)[S::CHUNKS][S::D / 16][4]) {
  using T = typename S::T;
  constexpr int D = S::D;
  const Warp warp(thread_index_again());
  const Segment text = block_text(p);
  const Rows<T> rows = block_rows(p, static_cast<T*>(r.dq), text, int64_t{p.key_heads} * p.group * D, D);
#pragma unroll
  for (int c = 0; c < S::CHUNKS; ++c) {
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      const int row = first + (c * S::GROUPS + warp.group) * CHUNK + warp.row + warp.g + 8 * lower;
      if (row < text.length * p.group) store_row(rows.at(row) + warp.half * (D / 2), dq[c], lower, p.scale);
    }
  }
}

// Copies keys first to first + KEYS - 1 of the block's image, and their values.
template <class S>
HIVE_DEVICE void copy_keys(const Attention& p, Segment image, int first) {
  using T = typename S::T;
  const T* k = static_cast<const T*>(p.k) + block_x() * p.k_sample + image.begin * p.k_token + block_y() * p.k_head;
  const T* v = static_cast<const T*>(p.v) + block_x() * p.v_sample + image.begin * p.v_token + block_y() * p.v_head;
  const Tile<S::D> k_tile{S::k}, v_tile{S::v};
  k_tile.template copy<KEYS, S::THREADS>([&](int n) { return k + n * p.k_token; }, first, image.length);
  v_tile.template copy<KEYS, S::THREADS>([&](int n) { return v + n * p.v_token; }, first, image.length);
}

// Where the sums of the key tile that starts at `key` are kept, dV's and after them dK's. Packed keys of the text at a
// place have the tiles from place + begin / KEYS on, which are always enough for them.
template <class S>
HIVE_DEVICE float* room(const Attention& p, const BackwardTensors& r, Segment image, int key) {
  const int place = r.places.tokens_a_place == 0 ? block_x() : block_text(p).begin / r.places.tokens_a_place;
  const int64_t tiles =
      p.offsets_k == nullptr ? int64_t{place} * ((p.keys + KEYS - 1) / KEYS) : place + image.begin / KEYS;
  return r.sums + ((tiles + key / KEYS) * p.key_heads + block_y()) * (2 * KEYS * S::D);
}

// Writes the dK and dV of the key tile that starts at `key`, or before the text's last rows their sums so far. Without
// the room that the sums need, both are NaN.
template <class S>
HIVE_DEVICE void finish_keys(const Attention& p, const BackwardTensors& r, Segment image, int key, KeySums<S::D>& dk,
                             KeySums<S::D>& dv, bool first, bool last) {
  using T = typename S::T;
  constexpr int D = S::D;
  const Warp warp(thread_index_again());
  if constexpr (S::GROUPS == 2) exchange<S>(dk, dv, warp);
  const bool has_dv = warp.group == 0, has_dk = warp.group == S::GROUPS - 1;
  const bool fits = first && last;
  if (!fits && r.sums != nullptr) {
    float* sums = room<S>(p, r, image, key);
    if (has_dv) accumulate<D>(dv, sums, first, last);
    if (has_dk) accumulate<D>(dk, sums + KEYS * D, first, last);
  }
  if (!last) return;
  const int64_t row = image.begin + key + (p.offsets_k == nullptr ? int64_t{block_x()} * p.keys : 0);
  const int64_t stride = int64_t{p.key_heads} * D, start = row * stride + block_y() * D;
  const float factor = fits || r.sums != nullptr ? 1 : NOT_A_NUMBER;
  if (has_dv) store_keys<T, D>(static_cast<T*>(r.dv) + start, stride, dv, warp, factor, image.length - key);
  if (has_dk) store_keys<T, D>(static_cast<T*>(r.dk) + start, stride, dk, warp, factor * p.scale, image.length - key);
}

template <class S>
HIVE_KERNEL(S::THREADS)
attention_backward_kernel(HIVE_GRID_CONSTANT const Attention p, HIVE_GRID_CONSTANT const BackwardTensors r) {
  constexpr int D = S::D;
  const Segment image = segment(p.offsets_k, block_x(), p.keys);
  const int rows = block_text(p).length * p.group;
  const Warp warp(thread_index());

  // Runs once for a text without rows too: keys that no row reads get gradient 0.
  for (int row = 0; row == 0 || row < rows; row += S::ROWS) {
    if (rows > 0) load_rows<S>(p, r, row);
    if (image.length > 0) copy_keys<S>(p, image, 0);
    float dq[S::CHUNKS][D / 16][4] = {};

    for (int key = 0; key < image.length; key += KEYS) {
      wait_for_copies();
      synchronize_block();
      KeySums<D> dk = {}, dv = {};
#pragma unroll
      for (int c = 0; c < S::CHUNKS; ++c) {
        const int chunk = c * S::GROUPS + warp.group;  // chunks alternate between groups
        if (row + chunk * CHUNK >= rows) continue;
        const Tile<CHUNK> dscores{S::dscores + (2 * warp.group + c % 2) * Tile<CHUNK>::template bytes<KEYS>};
        add_to_keys<S>(dk, dv, dscores, chunk * CHUNK, warp, p.scale * LOG2_E, image.length - key);
        synchronize_warps_of<S>(warp);
        add_to_queries<S>(dq[c], dscores, warp);
      }
      synchronize_block();  // no thread reads keys, values and dS any more, nor rows after the last tile
      if (key + KEYS < image.length) copy_keys<S>(p, image, key + KEYS);
      finish_keys<S>(p, r, image, key, dk, dv, row == 0, row + S::ROWS >= rows);
    }
    wait_for_copies();  // of rows, if there are no keys
    store_rows<S>(p, r, row, dq);
  }
}

template <class S>
void launch_backward(const Attention& p, const BackwardTensors& r, Stream stream) {
  launch(attention_backward_kernel<S>, p.batch, p.key_heads, S::THREADS, S::bytes, stream, p, r);
}

// For texts of up to 64 rows, for longer ones, and for wide heads: what registers and 99 KB of shared memory hold.
template <class T>
using Small = Shape<T, 64, 1, 2>;
template <class T>
using Large = Shape<T, 64, 2, 4>;
template <class T>
using Wide = Shape<T, 128, 2, 1>;

template <class T>
void dispatch(const Attention& p, const BackwardTensors& r, int head_dim, int64_t rows, Stream stream) {
  if (head_dim == 128) {
    launch_backward<Wide<T>>(p, r, stream);
  } else if (rows <= Small<T>::ROWS) {
    launch_backward<Small<T>>(p, r, stream);
  } else {
    launch_backward<Large<T>>(p, r, stream);
  }
}

}  // namespace

void attention_backward(const Attention& p, const BackwardTensors& r, Element element, int head_dim, Stream stream) {
  const int64_t rows = int64_t{r.longest} * p.group;
  if (element == Element::half) {
    dispatch<Half>(p, r, head_dim, rows, stream);
  } else {
    dispatch<BFloat16>(p, r, head_dim, rows, stream);
  }
}

PartialSums partial_sums(const Attention& p, int head_dim, int64_t longest) {
  const int rows = head_dim == 128 ? Wide<Half>::ROWS : Large<Half>::ROWS;
  if (longest * p.group <= rows) return {0, 0};
  const int tokens = rows / p.group + 1;  // of the shortest text that doesn't fit
  const bool by_sample = p.batch <= p.tokens / tokens;
  const int64_t places = by_sample ? p.batch : p.tokens / tokens;
  const int64_t tiles = p.offsets_k == nullptr ? places * ((p.keys + KEYS - 1) / KEYS) : places + p.keys / KEYS;
  return {tiles * p.key_heads * 2 * KEYS * head_dim, by_sample ? 0 : tokens};
}

}  // namespace hive
