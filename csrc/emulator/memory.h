// What the emulator does to memory that the operators allocate.
#pragma once

#include <cstdint>
#include <cstring>

namespace hive::emulator {

inline int64_t allocated_bytes = 0;  // since the library was loaded

// Fills with NaNs, so that an element that no kernel writes is noticed. Memory of more than 1 GB is left as it is: tests
// of far addresses use little of it, and the rest needs no pages.
inline void poison(void* data, int64_t bytes) {
  allocated_bytes += bytes;
  if (bytes > 0 && bytes <= int64_t{1} << 30) std::memset(data, 0xff, bytes);
}

}  // namespace hive::emulator
