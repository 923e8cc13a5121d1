// x + tanh(gate) y in one pass; its gradients in one pass and a sum of partial sums in a fixed order.
#include "gated_residual.h"
#include "launch.h"
#include "primitives.cuh"

namespace hive {
namespace {

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int PER_THREAD = 8;  // 16 bytes of 16-bit elements
constexpr int PER_BLOCK = THREADS * PER_THREAD;

template <class T>
struct alignas(16) Pieces {
  T element[PER_THREAD];
};

// Calls `work` with a null pointer to the type that `element` names.
template <class Work>
void with_type(Element element, Work work) {
  switch (element) {
    case Element::half: return work(static_cast<Half*>(nullptr));
    case Element::bfloat16: return work(static_cast<BFloat16*>(nullptr));
    case Element::single: return work(static_cast<float*>(nullptr));
  }
}

// Reads a tensor of one element.
HIVE_DEVICE float read(const Elements& from) {
  switch (from.element) {
    case Element::half: return to_float(*static_cast<const Half*>(from.data));
    case Element::bfloat16: return to_float(*static_cast<const BFloat16*>(from.data));
    default: return *static_cast<const float*>(from.data);
  }
}

HIVE_DEVICE void write(const Elements& to, float value) {
  switch (to.element) {
    case Element::half: *static_cast<Half*>(to.data) = rounded<Half>(value); break;
    case Element::bfloat16: *static_cast<BFloat16*>(to.data) = rounded<BFloat16>(value); break;
    default: *static_cast<float*>(to.data) = value;
  }
}

// Loads elements first to first + PER_THREAD - 1, zeros from `count` on.
template <class T>
HIVE_DEVICE void load(float (&to)[PER_THREAD], const T* from, int64_t first, int64_t count) {
  if (first + PER_THREAD <= count) {
    const auto& source = *reinterpret_cast<const Pieces<T>*>(from + first);
    const Pieces<T> pieces = source;  // read 16 bytes at a time
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) to[i] = to_float(pieces.element[i]);
  } else {
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) to[i] = first + i < count ? to_float(from[first + i]) : 0;
  }
}

template <class T>
HIVE_DEVICE void store(T* to, const float (&from)[PER_THREAD], int64_t first, int64_t count) {
  if (first + PER_THREAD <= count) {
    Pieces<T> pieces;
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) pieces.element[i] = rounded<T>(from[i]);
    *reinterpret_cast<Pieces<T>*>(to + first) = pieces;
  } else {
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) {
      if (first + i < count) to[first + i] = rounded<T>(from[i]);
    }
  }
}

// The block's sum, in thread 0, always added in the same order.
HIVE_DEVICE float sum_of_block(float value) {
  for (int mask = 16; mask > 0; mask /= 2) value += from_lane_xor(value, mask);
  if (thread_index() % 32 == 0) shared<float>(thread_index() / 32 * 4) = value;
  synchronize_block();
  float sum = 0;
  for (int warp = 0; warp < WARPS; ++warp) sum += shared<float>(warp * 4);
  return sum;
}

HIVE_DEVICE int64_t first_element() { return (int64_t{block_x()} * THREADS + thread_index()) * PER_THREAD; }

template <class X, class Y>
HIVE_KERNEL(THREADS)
gated_residual_kernel(const X* x, const Y* y, const Elements gate, X* out, int64_t count) {
  const float opening = tanhf(read(gate));
  const int64_t first = first_element();
  float a[PER_THREAD], b[PER_THREAD];
  load(a, x, first, count);
  load(b, y, first, count);
#pragma unroll
  for (int i = 0; i < PER_THREAD; ++i) a[i] += opening * b[i];
  store(out, a, first, count);
}

template <class X, class Y>
HIVE_KERNEL(THREADS)
gated_residual_backward_kernel(const X* grad, const Y* y, const Elements gate, Y* grad_y, float* partials,
                               int64_t count) {
  const float opening = tanhf(read(gate));
  const int64_t first = first_element();
  float a[PER_THREAD], b[PER_THREAD];
  load(a, grad, first, count);
  load(b, y, first, count);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < PER_THREAD; ++i) {
    sum += a[i] * b[i];
    a[i] *= opening;
  }
  store(grad_y, a, first, count);
  sum = sum_of_block(sum);
  if (thread_index() == 0) partials[block_x()] = sum;
}

// grad_gate = sum(partials) tanh'(gate), the slope as 4 e / (1 + e)^2, which doesn't cancel for a large gate.
HIVE_KERNEL(THREADS)
gate_gradient_kernel(const float* partials, const Elements gate, const Elements grad_gate, int64_t count) {
  float sum = 0;
  for (int64_t i = thread_index(); i < count; i += THREADS) sum += partials[i];
  sum = sum_of_block(sum);
  const float e = expf(-2 * fabsf(read(gate)));
  if (thread_index() == 0) write(grad_gate, sum * (4 * e / ((1 + e) * (1 + e))));
}

}  // namespace

int64_t gate_partials(int64_t count) { return (count + PER_BLOCK - 1) / PER_BLOCK; }

void gated_residual(Elements x, Elements y, Elements gate, Elements out, int64_t count, Stream stream) {
  const int blocks = static_cast<int>(gate_partials(count));
  with_type(x.element, [&](auto* x_type) {
    with_type(y.element, [&](auto* y_type) {
      using X = std::remove_pointer_t<decltype(x_type)>;
      using Y = std::remove_pointer_t<decltype(y_type)>;
      launch(gated_residual_kernel<X, Y>, blocks, 1, THREADS, 0, stream, static_cast<const X*>(x.data),
             static_cast<const Y*>(y.data), gate, static_cast<X*>(out.data), count);
    });
  });
}

void gated_residual_backward(Elements grad, Elements y, Elements gate, Elements grad_y, Elements grad_gate,
                             float* partials, int64_t count, Stream stream) {
  const int blocks = static_cast<int>(gate_partials(count));
  with_type(grad.element, [&](auto* x_type) {
    with_type(y.element, [&](auto* y_type) {
      using X = std::remove_pointer_t<decltype(x_type)>;
      using Y = std::remove_pointer_t<decltype(y_type)>;
      launch(gated_residual_backward_kernel<X, Y>, blocks, 1, THREADS, WARPS * 4, stream,
             static_cast<const X*>(grad.data), static_cast<const Y*>(y.data), gate, static_cast<Y*>(grad_y.data),
             partials, count);
    });
  });
  launch(gate_gradient_kernel, 1, 1, THREADS, WARPS * 4, stream, partials, gate, grad_gate, int64_t{blocks});
}

}  // namespace hive
