// The arguments of the attention kernels, and the functions that launch them.
#pragma once

#include "types.h"

namespace hive {

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

// out, lse as the forward pass returned them, dq shaped as q, dk and dv as k; contiguous, except dout.
struct BackwardTensors {
  const void* out;
  const float* lse;
  const void* dout;
  int64_t dout_token, dout_head;
  void *dq, *dk, *dv;
  float* sums;  // as many as partial_sums says, or null
  int longest;  // a bound on the tokens of a text
};

void attention_forward(const Attention&, const ForwardResults&, Element, int head_dim, Stream);

void attention_backward(const Attention&, const BackwardTensors&, Element, int head_dim, Stream);

// The number of fp32 sums of dK and dV that the backward pass needs: 0 if one block holds all rows of a text.
int64_t partial_sums(const Attention&, int head_dim, int64_t longest);

}  // namespace hive
