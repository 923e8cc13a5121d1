// out = softmax(scale q k^T) v and its log-sum-exp, each text over the keys of its own sample.
//
// A block has 64 packed rows of one sample and key head, a warp 16 of them. While a key tile's scores are computed, its
// values are copied; while the values are summed, the next keys are copied.
#include "attention.h"
#include "launch.h"
#include "packing.cuh"
#include "tile.cuh"

namespace hive {
namespace {

constexpr int WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * WARPS, KEYS = 64;
constexpr float INF = __builtin_huge_valf();
static_assert(ROWS <= MOST_ROWS && KEYS <= MOST_ROWS);

// The running softmax of a lane's two rows, g and g + 8 of its warp.
struct Softmax {
  float highest[2] = {-INF, -INF};
  float total[2] = {0, 0};
};

HIVE_DEVICE float max_over_row(float x) {  // the four lanes of a row
  x = fmaxf(x, from_lane_xor(x, 1));
  return fmaxf(x, from_lane_xor(x, 2));
}

HIVE_DEVICE float sum_over_row(float x) {
  x += from_lane_xor(x, 1);
  return x + from_lane_xor(x, 2);
}

// scores [16, KEYS] = scale q k^T for a warp's rows.
template <class T, int D>
HIVE_DEVICE void multiply_by_keys(float (&scores)[KEYS / 8][4], const uint32_t (&q)[D / 16][4], Tile<D> keys,
                                  float scale) {
#pragma unroll
  for (int n = 0; n < KEYS / 8; ++n) {
    for (int i = 0; i < 4; ++i) scores[n][i] = 0;
  }
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
#pragma unroll
    for (int n = 0; n < KEYS; n += 16) {
      uint32_t b[4];
      keys.b_transposed(b, n, 16 * step);
      multiply_add_pair<T>(scores[n / 8], scores[n / 8 + 1], q[step], b);
    }
  }
#pragma unroll
  for (int n = 0; n < KEYS / 8; ++n) {
    for (int i = 0; i < 4; ++i) scores[n][i] *= scale;
  }
}

// Sets the scores of keys from `inside` on, which don't exist, to -inf.
HIVE_DEVICE void mask(float (&scores)[KEYS / 8][4], int inside) {
#pragma unroll
  for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (8 * n + 2 * (thread_index() % 4) + i % 2 >= inside) scores[n][i] = -INF;
    }
  }
}

// Replaces scaled scores by weights exp2(score - highest), and multiplies `sums` by exp2(old highest - highest).
// At least one key exists, so the maximum is finite unless a score isn't.
template <int PIECES>
HIVE_DEVICE void update(Softmax& softmax, float (&scores)[KEYS / 8][4], float (&sums)[PIECES][4]) {
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    float highest = softmax.highest[lower];
#pragma unroll
    for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
      for (int i = 2 * lower; i < 2 * lower + 2; ++i) {
        highest = fmaxf(highest, scores[n][i]);
      }
    }
    highest = max_over_row(highest);
    const float shrink = exp2_fast(softmax.highest[lower] - highest);
    float total = 0;
#pragma unroll
    for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
      for (int i = 2 * lower; i < 2 * lower + 2; ++i) {
        scores[n][i] = exp2_fast(scores[n][i] - highest);
        total += scores[n][i];
      }
    }
    softmax.total[lower] = softmax.total[lower] * shrink + total;  // of this lane's keys
    softmax.highest[lower] = highest;
#pragma unroll
    for (int n = 0; n < PIECES; ++n) {
      sums[n][2 * lower] *= shrink;
      sums[n][2 * lower + 1] *= shrink;
    }
  }
}

template <class T, int D>
HIVE_DEVICE void add_values(float (&sums)[D / 8][4], const float (&weights)[KEYS / 8][4], Tile<D> values) {
#pragma unroll
  for (int step = 0; step < KEYS / 16; ++step) {
    uint32_t a[4];
    as_operand<T>(a, weights[2 * step], weights[2 * step + 1]);
#pragma unroll
    for (int n = 0; n < D; n += 16) {
      uint32_t b[4];
      values.b(b, 16 * step, n);
      multiply_add_pair<T>(sums[n / 8], sums[n / 8 + 1], a, b);
    }
  }
}

template <int D>
struct SharedLayout {
  static constexpr uint32_t q = 0;
  static constexpr uint32_t k = q + Tile<D>::template bytes<ROWS>;
  static constexpr uint32_t v = k + Tile<D>::template bytes<KEYS>;
  static constexpr uint32_t bytes = v + Tile<D>::template bytes<KEYS>;
  static_assert(bytes <= 48 * 1024, "two blocks on an RTX 3090's multiprocessor");
};

template <class T, int D>
HIVE_KERNEL(THREADS)
attention_forward_kernel(HIVE_GRID_CONSTANT const Attention p, HIVE_GRID_CONSTANT const ForwardResults r) {
  const auto [sample, row] = locate(block_x(), p.offsets_q, p.batch, p.tokens, p.group, ROWS);
  const Segment text = segment(p.offsets_q, sample, p.tokens);
  const int rows = text.length * p.group;
  if (row >= rows) return;
  const Segment image = segment(p.offsets_k, sample, p.keys);
  const int head = block_y(), query_heads = grid_y() * p.group, warp = thread_index() / 32;

  const Rows<const T> q{static_cast<const T*>(p.q) + text.begin * p.q_token + head * p.group * p.q_head, p.q_token,
                        p.q_head, p.group};
  const T* k = static_cast<const T*>(p.k) + sample * p.k_sample + image.begin * p.k_token + head * p.k_head;
  const T* v = static_cast<const T*>(p.v) + sample * p.v_sample + image.begin * p.v_token + head * p.v_head;
  const auto key_row = [&](int n) { return k + n * p.k_token; };
  const auto value_row = [&](int n) { return v + n * p.v_token; };
  using Layout = SharedLayout<D>;
  const Tile<D> q_tile{Layout::q}, k_tile{Layout::k}, v_tile{Layout::v};

  q_tile.template copy<ROWS, THREADS>([&](int n) { return q.at(n); }, row, rows);
  if (image.length > 0) k_tile.template copy<KEYS, THREADS>(key_row, 0, image.length);
  wait_for_copies();
  synchronize_block();
  uint32_t q_operand[D / 16][4];
#pragma unroll
  for (int step = 0; step < D / 16; ++step) q_tile.a(q_operand[step], 16 * warp, 16 * step);

  float sums[D / 8][4] = {};
  Softmax softmax;
  for (int first = 0; first < image.length; first += KEYS) {
    wait_for_copies();
    synchronize_block();  // the keys are copied, and no thread reads the last values any more
    v_tile.template copy<KEYS, THREADS>(value_row, first, image.length);
    float scores[KEYS / 8][4];
    multiply_by_keys<T, D>(scores, q_operand, k_tile, p.scale * LOG2_E);
    if (image.length - first < KEYS) mask(scores, image.length - first);
    wait_for_copies();
    synchronize_block();  // the values are copied, and no thread reads these keys any more
    if (first + KEYS < image.length) k_tile.template copy<KEYS, THREADS>(key_row, first + KEYS, image.length);
    update(softmax, scores, sums);
    add_values<T, D>(sums, scores, v_tile);
  }

#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    const float total = sum_over_row(softmax.total[lower]);
    const int mine = row + 16 * warp + thread_index() % 32 / 4 + 8 * lower;
    if (mine >= rows) continue;
    // Without keys out is 0 and lse is -inf.
    const Rows<T> out{static_cast<T*>(r.out) + (int64_t{text.begin} * query_heads + head * p.group) * D,
                      int64_t{query_heads} * D, D, p.group};
    store_row(out.at(mine), sums, lower, total > 0 ? 1 / total : 1);
    const Rows<float> lse{r.lse + int64_t{text.begin} * query_heads + head * p.group, query_heads, 1, p.group};
    if (thread_index() % 4 == 0) *lse.at(mine) = softmax.highest[lower] + log2f(total);
  }
}

template <class T, int D>
void launch_forward(const Attention& p, const ForwardResults& r, Stream stream) {
  const int slots = static_cast<int>(int64_t{p.tokens} * p.group / ROWS) + p.batch;
  launch(attention_forward_kernel<T, D>, slots, p.key_heads, THREADS, SharedLayout<D>::bytes, stream, p, r);
}

}  // namespace

void attention_forward(const Attention& p, const ForwardResults& r, Element element, int head_dim, Stream stream) {
  const bool half = element == Element::half;
  if (head_dim == 64) {
    half ? launch_forward<Half, 64>(p, r, stream) : launch_forward<BFloat16, 64>(p, r, stream);
  } else {
    half ? launch_forward<Half, 128>(p, r, stream) : launch_forward<BFloat16, 128>(p, r, stream);
  }
}

}  // namespace hive
