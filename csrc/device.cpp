#include "device.h"

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include "error.h"

namespace hive {
namespace {

// The function is in libtorch_cuda, which a torch without CUDA doesn't have. Looking it up at its first use lets the
// library be linked and loaded without it.
auto current_stream() {
  using Function = AOTITorchError (*)(int32_t, void**);
  static const auto function = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* symbol = library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream");
    if (symbol == nullptr) throw std::runtime_error("this torch was built without CUDA");
    return reinterpret_cast<Function>(symbol);
  }();
  return function;
}

}  // namespace

OnDevice::OnDevice(const torch::stable::Tensor& x) : index_(x.get_device_index()) {
  check(cudaGetDevice(&before_), "asking for the device");
  if (before_ != index_) check(cudaSetDevice(index_), "selecting a device");
}

OnDevice::~OnDevice() {
  if (before_ != index_) cudaSetDevice(before_);
}

Stream OnDevice::stream() const {
  void* stream = nullptr;
  if (current_stream()(index_, &stream) != AOTI_TORCH_SUCCESS) throw std::runtime_error("torch has no current stream");
  return static_cast<Stream>(stream);
}

}  // namespace hive
