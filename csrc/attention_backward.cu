// The gradients of attention in one pass: five products a key tile, where a kernel for dQ and one for dK and dV need seven.
//
// A block owns one sample and key head. Queries and output gradients of ROWS packed rows stay in shared memory, their dQ
// in registers, while keys pass by, 64 at a time. A group of four warps has 32 rows of every chunk. Within it a warp has
// 16 of the keys and computes scores transposed, [keys, rows]: so weights and their gradients are already where the
// products that give dV and dK want them. Only the gradients of scores go through shared memory, to dQ's product, for
// which a warp has 16 of the group's rows and half of the columns.
//
// Nothing is added with atomics: every output has one writer, and two groups' shares of dK and dV are added in a fixed
// order. A text with more rows is walked ROWS at a time, with dK and dV kept in fp32 in between.
#include "attention.h"
#include "launch.h"
#include "packing.cuh"
#include "tile.cuh"

namespace hive {
namespace {

constexpr int KEYS = 64, CHUNK = 32, GROUP_THREADS = 128;
constexpr float INF = __builtin_huge_valf();

// GROUPS groups of four warps, CHUNKS chunks of 32 rows for each.
template <class T_, int D_, int GROUPS_, int CHUNKS_>
struct Shape {
  using T = T_;
  static constexpr int D = D_, GROUPS = GROUPS_, CHUNKS = CHUNKS_;
  static constexpr int ROWS = GROUPS * CHUNKS * CHUNK;
  static constexpr int THREADS = GROUPS * GROUP_THREADS;
  static_assert(GROUPS == 1 || GROUPS == 2, "a group gives its share of dK or dV to one other");

  // Shared memory. A group writes one of its two tiles of dS while the other is read.
  static constexpr uint32_t q = 0;
  static constexpr uint32_t dout = q + Tile<D>::template bytes<ROWS>;
  static constexpr uint32_t k = dout + Tile<D>::template bytes<ROWS>;
  static constexpr uint32_t v = k + Tile<D>::template bytes<KEYS>;
  static constexpr uint32_t dscores = v + Tile<D>::template bytes<KEYS>;
  // The groups' exchange of sums takes the same place, when no dS is alive.
  static constexpr uint32_t dscores_bytes = 2 * GROUPS * Tile<CHUNK>::template bytes<KEYS>;
  static constexpr uint32_t exchange_bytes = (GROUPS - 1) * KEYS * D * 4;
  static constexpr uint32_t lse = dscores + (dscores_bytes > exchange_bytes ? dscores_bytes : exchange_bytes);
  static constexpr uint32_t delta = lse + ROWS * 4;
  static constexpr uint32_t bytes = delta + ROWS * 4;
  static_assert(bytes <= 101376, "what a block of an RTX 3090 may have");
};

// 16 keys' dK or dV of a warp, [16, D].
template <int D>
using KeySums = float[D / 8][4];

struct Warp {
  int group = thread_index() / GROUP_THREADS;
  int keys = thread_index() / 32 % 4 * 16;        // its 16 keys of a tile
  int row = thread_index() / 32 % 2 * 16;         // for dQ: its 16 rows of a chunk,
  int half = thread_index() / 64 % 2;             // and its half of the columns
  int g = thread_index() % 32 / 4, t = thread_index() % 4;
};

// sums [16, 32] = x y^T: a warp's 16 rows of tile x by 32 rows of tile y.
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

// sums [16, D] += x y, with x [16, 32] a warp's sums and y 32 rows of a tile.
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

// Adds 32 rows to a warp's dK and dV, and leaves its keys' dS [keys, rows] in `dscores`.
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
      // Rows and keys that don't exist weigh nothing: such rows have an lse of +inf.
      const uint32_t statistic = (row + 8 * n + 2 * warp.t + i % 2) * 4;
      const bool exists = warp.keys + warp.g + i / 2 * 8 < keys;
      const float weight = exists ? exp2_fast(weights[n][i] * scale - shared<float>(S::lse + statistic)) : 0;
      gradients[n][i] = weight * (gradients[n][i] - shared<float>(S::delta + statistic));
      weights[n][i] = weight;
    }
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      const uint32_t pair = dscores.pair(warp.keys + warp.g + 8 * lower, 8 * n + 2 * warp.t);
      shared<uint32_t>(pair) = pack<T>(gradients[n][2 * lower], gradients[n][2 * lower + 1]);
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

// Afterwards the first group has all of dV, the second all of dK. Threads of equal places in both hold the same elements.
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
  if (warp.group == 0) take(dv);
  synchronize_block();
  if (warp.group == 0) give(dk);
  synchronize_block();
  if (warp.group == 1) take(dk);
}

// Adds what earlier rows of the text left in `room`, and leaves the sum there for later ones: a thread its own.
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

// Of rows first to first + ROWS - 1: lse, and delta = sum(out dout), into shared memory. Rows from `rows` on get an lse
// of +inf, at which every weight is 0.
template <class S>
HIVE_DEVICE void load_statistics(Rows<const typename S::T> out, Rows<const typename S::T> dout, Rows<const float> lse,
                                 int first, int rows) {
  constexpr int LANES = 8;  // a row
  for (int r = thread_index() / LANES; r < S::ROWS; r += S::THREADS / LANES) {
    const bool inside = first + r < rows;
    float delta = 0;
    if (inside) {
      const auto *x = out.at(first + r), *y = dout.at(first + r);
#pragma unroll
      for (int d = 2 * (thread_index() % LANES); d < S::D; d += 2 * LANES) {
        float a[2], b[2];
        unpack<typename S::T>(a, *reinterpret_cast<const uint32_t*>(x + d));
        unpack<typename S::T>(b, *reinterpret_cast<const uint32_t*>(y + d));
        delta += a[0] * b[0] + a[1] * b[1];
      }
    }
    for (int mask = 1; mask < LANES; mask *= 2) delta += from_lane_xor(delta, mask);
    if (thread_index() % LANES == 0) {
      shared<float>(S::delta + 4 * r) = delta;
      shared<float>(S::lse + 4 * r) = inside ? *lse.at(first + r) : INF;
    }
  }
}

// Where a block's tensors start: its sample's first token or key, its key head's first element.
template <class T>
struct Inputs {
  Rows<const T> q, dout, out;
  Rows<const float> lse;
  Rows<T> dq;
  const T *k, *v;
  T *dk, *dv;
  float* sums;         // of the block, for its key tiles one after another
  int64_t key_stride;  // of dk and dv
};

template <class S>
HIVE_DEVICE Inputs<typename S::T> inputs(const Attention& p, const BackwardTensors& r, int sample, int head,
                                         Segment text, Segment image) {
  using T = typename S::T;
  const int64_t query_heads = int64_t{p.key_heads} * p.group, query_head = int64_t{head} * p.group;
  const int64_t contiguous = text.begin * query_heads + query_head;
  const int64_t first_key = image.begin + (p.offsets_k == nullptr ? int64_t{sample} * p.keys : 0);
  const int64_t dkeys = (first_key * p.key_heads + head) * S::D;
  // Slots of tiles as packing.cuh has them: a sample's are enough for its keys.
  const int64_t tiles = p.offsets_k == nullptr ? int64_t{sample} * ((p.keys + KEYS - 1) / KEYS)
                                               : sample + image.begin / KEYS;
  return {
      {static_cast<const T*>(p.q) + text.begin * p.q_token + query_head * p.q_head, p.q_token, p.q_head, p.group},
      {static_cast<const T*>(r.dout) + text.begin * r.dout_token + query_head * r.dout_head, r.dout_token, r.dout_head,
       p.group},
      {static_cast<const T*>(r.out) + contiguous * S::D, query_heads * S::D, S::D, p.group},
      {r.lse + contiguous, query_heads, 1, p.group},
      {static_cast<T*>(r.dq) + contiguous * S::D, query_heads * S::D, S::D, p.group},
      static_cast<const T*>(p.k) + sample * p.k_sample + image.begin * p.k_token + head * p.k_head,
      static_cast<const T*>(p.v) + sample * p.v_sample + image.begin * p.v_token + head * p.v_head,
      static_cast<T*>(r.dk) + dkeys,
      static_cast<T*>(r.dv) + dkeys,
      r.sums + (tiles * p.key_heads * 2 + head * 2) * (KEYS * S::D),
      int64_t{p.key_heads} * S::D,
  };
}

template <class S>
HIVE_DEVICE void copy_keys(const Attention& p, const Inputs<typename S::T>& x, int first, int stop) {
  const Tile<S::D> k{S::k}, v{S::v};
  k.template copy<KEYS, S::THREADS>([&](int n) { return x.k + n * p.k_token; }, first, stop);
  v.template copy<KEYS, S::THREADS>([&](int n) { return x.v + n * p.v_token; }, first, stop);
}

// Writes a key tile's dK and dV, or what there is of them so far.
template <class S>
HIVE_DEVICE void finish_keys(const Attention& p, const Inputs<typename S::T>& x, KeySums<S::D>& dk, KeySums<S::D>& dv,
                             const Warp& warp, int key, int keys, bool first, bool last) {
  if constexpr (S::GROUPS == 2) exchange<S>(dk, dv, warp);
  float* room = x.sums + int64_t{key / KEYS} * p.key_heads * 2 * (KEYS * S::D);
  if (warp.group == 0) {
    if (!(first && last)) accumulate<S::D>(dv, room, first, last);
    if (last) store_keys<typename S::T, S::D>(x.dv + key * x.key_stride, x.key_stride, dv, warp, 1, keys - key);
  }
  if (warp.group == S::GROUPS - 1) {
    if (!(first && last)) accumulate<S::D>(dk, room + KEYS * S::D, first, last);
    if (last) store_keys<typename S::T, S::D>(x.dk + key * x.key_stride, x.key_stride, dk, warp, p.scale, keys - key);
  }
}

template <class S>
HIVE_KERNEL(S::THREADS) backward_kernel(HIVE_GRID_CONSTANT const Attention p, HIVE_GRID_CONSTANT const BackwardTensors r) {
  using T = typename S::T;
  constexpr int D = S::D;
  const int sample = block_x(), head = block_y();
  const Segment text = segment(p.offsets_q, sample, p.tokens), image = segment(p.offsets_k, sample, p.keys);
  const Inputs<T> x = inputs<S>(p, r, sample, head, text, image);
  const int rows = min(text.length, r.longest) * p.group;  // a wrong bound gives wrong results, no access outside
  const Warp warp;

  // Without any row too, once: keys that nobody reads get gradient 0.
  for (int row = 0; row == 0 || row < rows; row += S::ROWS) {
    const bool first = row == 0, last = row + S::ROWS >= rows;
    const int chunks = (min(rows - row, S::ROWS) + CHUNK - 1) / CHUNK;  // of all groups, which take turns
    synchronize_block();  // nobody reads the rows before these any more
    Tile<D>{S::q}.template copy<S::ROWS, S::THREADS>([&](int n) { return x.q.at(n); }, row, rows);
    Tile<D>{S::dout}.template copy<S::ROWS, S::THREADS>([&](int n) { return x.dout.at(n); }, row, rows);
    if (image.length > 0) copy_keys<S>(p, x, 0, image.length);
    load_statistics<S>(x.out, x.dout, x.lse, row, rows);
    float dq[S::CHUNKS][D / 16][4] = {};

    for (int key = 0; key < image.length; key += KEYS) {
      wait_for_copies();
      synchronize_block();
      KeySums<D> dk = {}, dv = {};
#pragma unroll
      for (int c = 0; c < S::CHUNKS; ++c) {
        const int chunk = c * S::GROUPS + warp.group;
        if (chunk >= chunks) continue;
        const Tile<CHUNK> dscores{S::dscores + (2 * warp.group + c % 2) * Tile<CHUNK>::template bytes<KEYS>};
        add_to_keys<S>(dk, dv, dscores, chunk * CHUNK, warp, p.scale * LOG2_E, image.length - key);
        synchronize_group(1 + warp.group, GROUP_THREADS);
        add_to_queries<S>(dq[c], dscores, warp);
      }
      synchronize_block();  // nobody reads keys, values and dS any more
      if (key + KEYS < image.length) copy_keys<S>(p, x, key + KEYS, image.length);
      finish_keys<S>(p, x, dk, dv, warp, key, image.length, first, last);
    }
    wait_for_copies();  // of rows, where there is no key

#pragma unroll
    for (int c = 0; c < S::CHUNKS; ++c) {
#pragma unroll
      for (int lower = 0; lower < 2; ++lower) {
        const int mine = row + (c * S::GROUPS + warp.group) * CHUNK + warp.row + warp.g + 8 * lower;
        if (mine < rows) store_row(x.dq.at(mine) + warp.half * (D / 2), dq[c], lower, p.scale);
      }
    }
  }
}

template <class S>
void launch_backward(const Attention& p, const BackwardTensors& r, Stream stream) {
  launch(backward_kernel<S>, p.batch, p.key_heads, S::THREADS, S::bytes, stream, p, r);
}

// Texts of up to 64 rows, of up to 256, and with wide heads: what registers and 99 KB of shared memory hold.
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

int64_t partial_sums(const Attention& p, int head_dim, int64_t longest) {
  const int64_t rows = head_dim == 128 ? Wide<Half>::ROWS : Large<Half>::ROWS;
  if (longest * p.group <= rows) return 0;
  const int64_t tiles = p.offsets_k == nullptr ? int64_t{p.batch} * ((p.keys + KEYS - 1) / KEYS)
                                               : p.keys / KEYS + p.batch;
  return tiles * p.key_heads * 2 * KEYS * head_dim;
}

}  // namespace hive
