// Selects the GPU and the stream that torch uses; does nothing in the emulator.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "types.h"

#ifdef HIVE_EMULATED
#include "emulator/memory.h"
#endif

namespace hive {

#ifdef HIVE_EMULATED
#define HIVE_DISPATCH_KEY CPU

struct OnDevice {
  explicit OnDevice(const torch::stable::Tensor&) {}
  Stream stream() const { return nullptr; }
};

inline void poison(torch::stable::Tensor& x) {
  emulator::poison(x.data_ptr(), x.numel() * static_cast<int64_t>(x.element_size()));
}

#else
#define HIVE_DISPATCH_KEY CUDA

// While it exists, the current device is the tensor's.
class OnDevice {
 public:
  explicit OnDevice(const torch::stable::Tensor& x);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  // torch's current stream on the device.
  Stream stream() const;

 private:
  int index_;
  int before_ = 0;
};

inline void poison(torch::stable::Tensor&) {}
#endif

}  // namespace hive
