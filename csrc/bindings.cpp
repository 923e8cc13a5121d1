// The operators hive_kernels_cuda::*, whose schemas are in hive_kernels/*/ops.py, over torch's stable ABI: one shared
// library runs with every torch from 2.10 on and every Python. The public functions check arguments for their users;
// the checks here keep kernels inside their tensors even if an operator is called directly.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "attention.h"
#include "device.h"
#include "gated_residual.h"

namespace hive {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t ALIGNMENT = 16;  // bytes

Element element_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Half: return Element::half;
    case ScalarType::BFloat16: return Element::bfloat16;
    case ScalarType::Float: return Element::single;
    default: STD_TORCH_CHECK(false, "hive_kernels_cuda has no kernels for this dtype");
  }
}

using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

void expect(const char* name, const Tensor& x, const Tensor& beside, ScalarType type, Sizes sizes) {
  STD_TORCH_CHECK(x.scalar_type() == type && x.device() == beside.device() && x.sizes().equals(sizes),
                  "hive_kernels_cuda: the dtype, device or shape of ", name, " doesn't fit the first argument's");
}

int as_int(int64_t x) {
  STD_TORCH_CHECK(x >= 0 && x < (int64_t{1} << 31), "hive_kernels_cuda: ", x, " is more than a size may be");
  return static_cast<int>(x);
}

// A contiguous tensor on the device of `like`, uninitialised.
Tensor allocate(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType type) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(sizes[i], 1);
  }
  const auto device = like.device();
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(device.type())), device.index(), &made));
  Tensor result(made);
  poison(result);
  return result;
}

Tensor allocate_like(const Tensor& x) {
  const auto sizes = x.sizes();
  return allocate(x, {sizes.begin(), sizes.end()}, x.scalar_type());
}

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % ALIGNMENT == 0; }

// The tensor, or a copy if it isn't contiguous and aligned.
Tensor packed(const Tensor& x) {
  if (!x.is_contiguous()) return torch::stable::contiguous(x);
  return aligned(x.const_data_ptr()) ? x : torch::stable::clone(x);
}

// The tensor, or a copy if kernels can't read 16 bytes of a head at a time.
Tensor addressable(const Tensor& x) {
  const auto strides = x.strides();
  const int64_t pieces = ALIGNMENT / static_cast<int64_t>(x.element_size());
  bool fits = strides[strides.size() - 1] == 1 && aligned(x.const_data_ptr());
  for (size_t i = 0; i + 1 < strides.size(); ++i) fits = fits && (strides[i] % pieces == 0);
  return fits ? x : packed(x);
}

// The tensors of a call; they must exist as long as the pointers in `problem` are used.
struct Call {
  Tensor q, k, v, offsets_q;
  std::optional<Tensor> offsets_k;
  Attention problem;
  Element element;
  int head_dim;
};

Call prepare(Tensor q_, Tensor k_, Tensor v_, Tensor offsets_q_, std::optional<Tensor> offsets_k_, double scale) {
  const bool dense = !offsets_k_.has_value();
  STD_TORCH_CHECK(q_.dim() == 3 && k_.dim() == (dense ? 4 : 3) && offsets_q_.dim() == 1,
                  "hive_kernels_cuda: q, k or offsets_q has a dimension too many or too few");
  const int64_t samples = offsets_q_.size(0) - 1, token = k_.dim() - 3, head = k_.dim() - 2;
  expect("k", k_, q_, q_.scalar_type(), k_.sizes());
  expect("v", v_, q_, q_.scalar_type(), k_.sizes());
  expect("offsets_q", offsets_q_, q_, ScalarType::Int, {samples + 1});
  if (!dense) expect("offsets_k", *offsets_k_, q_, ScalarType::Int, {samples + 1});
  STD_TORCH_CHECK(k_.size(head + 1) == q_.size(2) && (!dense || k_.size(0) == samples),
                  "hive_kernels_cuda: k doesn't fit q and offsets_q");
  STD_TORCH_CHECK(k_.size(head) > 0 && q_.size(1) % k_.size(head) == 0, "hive_kernels_cuda: heads don't divide");

  Call call{addressable(q_), addressable(k_), addressable(v_), packed(offsets_q_), std::nullopt, {}, element_of(q_), 0};
  if (offsets_k_) call.offsets_k = packed(*offsets_k_);
  const Tensor &q = call.q, &k = call.k, &v = call.v;
  STD_TORCH_CHECK(call.element != Element::single, "hive_kernels_cuda has no attention in fp32");
  call.head_dim = as_int(q.size(2));
  STD_TORCH_CHECK(call.head_dim == 64 || call.head_dim == 128, "hive_kernels_cuda: heads of ", call.head_dim);
  call.problem = {
      q.const_data_ptr(),
      k.const_data_ptr(),
      v.const_data_ptr(),
      static_cast<const int32_t*>(call.offsets_q.const_data_ptr()),
      dense ? nullptr : static_cast<const int32_t*>(call.offsets_k->const_data_ptr()),
      q.stride(0),
      q.stride(1),
      dense ? k.stride(0) : 0,
      k.stride(token),
      k.stride(head),
      dense ? v.stride(0) : 0,
      v.stride(token),
      v.stride(head),
      as_int(q.size(0)),
      as_int(k.size(token)),
      as_int(samples),
      as_int(k.size(head)),
      as_int(q.size(1) / k.size(head)),
      static_cast<float>(scale),
  };
  as_int(q.size(0) * call.problem.group + MOST_ROWS * (samples + 1));
  as_int(k.size(token) + MOST_ROWS);
  return call;
}

std::tuple<Tensor, Tensor> cross_attention(Tensor q, Tensor k, Tensor v, Tensor offsets_q,
                                           std::optional<Tensor> offsets_k, double scale, int64_t) {
  const OnDevice device(q);
  const Call call = prepare(q, k, v, offsets_q, offsets_k, scale);
  Tensor out = allocate_like(q), lse = allocate(q, {q.size(0), q.size(1)}, ScalarType::Float);
  if (q.numel() > 0 && call.problem.batch > 0) {
    const ForwardResults results{out.mutable_data_ptr(), static_cast<float*>(lse.mutable_data_ptr())};
    attention_forward(call.problem, results, call.element, call.head_dim, device.stream());
  }
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor> cross_attention_backward(Tensor grad, Tensor out_, Tensor lse_, Tensor q, Tensor k,
                                                            Tensor v, Tensor offsets_q, std::optional<Tensor> offsets_k,
                                                            double scale, int64_t longest) {
  const OnDevice device(q);
  const Call call = prepare(q, k, v, offsets_q, offsets_k, scale);
  expect("grad", grad, q, q.scalar_type(), q.sizes());
  expect("out", out_, q, q.scalar_type(), q.sizes());
  expect("lse", lse_, q, ScalarType::Float, {q.size(0), q.size(1)});
  const Tensor dout = addressable(grad), out = packed(out_), lse = packed(lse_);
  Tensor dq = allocate_like(q), dk = allocate_like(k), dv = allocate_like(v);
  if (call.problem.batch > 0) {
    longest = std::min<int64_t>(longest, call.problem.tokens);
    const PartialSums places = partial_sums(call.problem, call.head_dim, longest);
    std::optional<Tensor> sums;
    if (places.count > 0) sums = allocate(q, {places.count}, ScalarType::Float);
    const BackwardTensors tensors{
        out.const_data_ptr(),
        static_cast<const float*>(lse.const_data_ptr()),
        dout.const_data_ptr(),
        dout.stride(0),
        dout.stride(1),
        dq.mutable_data_ptr(),
        dk.mutable_data_ptr(),
        dv.mutable_data_ptr(),
        sums ? static_cast<float*>(sums->mutable_data_ptr()) : nullptr,
        places,
        as_int(longest),
    };
    attention_backward(call.problem, tensors, call.element, call.head_dim, device.stream());
  }
  return {dq, dk, dv};
}

Elements elements(const Tensor& x) { return {x.data_ptr(), element_of(x)}; }

Tensor gated_residual_of(Tensor x_, Tensor y_, Tensor gate) {
  const OnDevice device(x_);
  expect("y", y_, x_, y_.scalar_type(), x_.sizes());
  STD_TORCH_CHECK(gate.numel() == 1 && gate.device() == x_.device(), "hive_kernels_cuda: gate isn't one number by x");
  const Tensor x = packed(x_), y = packed(y_);
  Tensor out = allocate_like(x);
  gated_residual(elements(x), elements(y), elements(gate), elements(out), x.numel(), device.stream());
  return out;
}

std::tuple<Tensor, Tensor> gated_residual_gradients(Tensor grad_, Tensor y_, Tensor gate) {
  const OnDevice device(y_);
  expect("grad", grad_, y_, grad_.scalar_type(), y_.sizes());
  STD_TORCH_CHECK(gate.numel() == 1 && gate.device() == y_.device(), "hive_kernels_cuda: gate isn't one number by y");
  const Tensor grad = packed(grad_), y = packed(y_);
  Tensor grad_y = allocate_like(y), grad_gate = allocate_like(gate);
  const Tensor partials = allocate(y, {gate_partials(y.numel())}, ScalarType::Float);
  gated_residual_backward(elements(grad), elements(y), elements(gate), elements(grad_y), elements(grad_gate),
                          static_cast<float*>(partials.mutable_data_ptr()), y.numel(), device.stream());
  return {grad_y, grad_gate};
}

}  // namespace
}  // namespace hive

STABLE_TORCH_LIBRARY_IMPL(hive_kernels_cuda, HIVE_DISPATCH_KEY, library) {
  library.impl("cross_attention", TORCH_BOX(&hive::cross_attention));
  library.impl("cross_attention_backward", TORCH_BOX(&hive::cross_attention_backward));
  library.impl("gated_residual", TORCH_BOX(&hive::gated_residual_of));
  library.impl("gated_residual_backward", TORCH_BOX(&hive::gated_residual_gradients));
}
