// x + tanh(gate) y and its gradients, elementwise.
#pragma once

#include "types.h"

namespace hive {

// A contiguous tensor, 16-byte aligned.
struct Elements {
  void* data;
  Element element;
};

// out = x + tanh(gate) y, `count` elements each; gate has one. out has x's element type.
void gated_residual(Elements x, Elements y, Elements gate, Elements out, int64_t count, Stream);

// grad_y = tanh(gate) grad and grad_gate = sum(grad y) tanh'(gate), with the types of y and gate. `partials` has
// gate_partials(count) elements.
void gated_residual_backward(Elements grad, Elements y, Elements gate, Elements grad_y, Elements grad_gate,
                             float* partials, int64_t count, Stream);

int64_t gate_partials(int64_t count);

}  // namespace hive
