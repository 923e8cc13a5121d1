// The arguments of the attention kernels, and the functions that launch them.
#pragma once

#include "types.h"

namespace hive {

// No block has more packed rows, and no tile more keys. Kernels count rows and keys in int: of all samples, each filled
// up to whole blocks, and one block beyond.
constexpr int MOST_ROWS = 256;

// All strides in elements; a head's elements are contiguous, and every pointer and stride is a multiple of 16 bytes.
struct Attention {
  const void *q, *k, *v;
  const int32_t *offsets_q, *offsets_k;  // without offsets_k every sample has `keys` keys
  int64_t q_token, q_head;
  int64_t k_sample, k_token, k_head;
  int64_t v_sample, v_token, v_head;
  int tokens;  // of all texts
  int keys;    // of each image, or of all of them with offsets_k
  int batch, key_heads, group;
  float scale;  // of the scores
};

// Contiguous results: out as q, lse [tokens, query heads] in base 2.
struct ForwardResults {
  void* out;
  float* lse;
};

// The room for fp32 sums of dK and dV, which a text has if its packed rows don't fit one block.
struct PartialSums {
  int64_t count;       // 0 if all texts fit
  int tokens_a_place;  // a text's place is its first token divided by this, or its sample if this is 0
};

// out, lse as the forward pass returned them, dq shaped as q, dk and dv as k; contiguous, except dout. A text that needs
// sums where there are none, because it has more tokens than `longest`, gets dQ, and NaN as its dK and dV.
struct BackwardTensors {
  const void* out;
  const float* lse;
  const void* dout;
  int64_t dout_token, dout_head;
  void *dq, *dk, *dv;
  float* sums;  // null if their count is 0
  PartialSums places;
  int longest;  // a bound on the tokens of a text
};

void attention_forward(const Attention&, const ForwardResults&, Element, int head_dim, Stream);

void attention_backward(const Attention&, const BackwardTensors&, Element, int head_dim, Stream);

// What the backward pass needs for texts of up to `longest` tokens.
PartialSums partial_sums(const Attention&, int head_dim, int64_t longest);

}  // namespace hive
