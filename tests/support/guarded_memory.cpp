// Preloaded into a process, once it calls guard_memory: the memory of every new tensor lies by itself, billions of bytes
// away from any other, and ends where pages begin that nobody may touch. An access outside of a tensor ends the process
// with SIGSEGV.
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

#include <mutex>

extern "C" void* __libc_memalign(size_t alignment, size_t size);
extern "C" void __libc_free(void*);
extern "C" int posix_memalign(void** result, size_t alignment, size_t size);

namespace {

constexpr uintptr_t FIRST = uintptr_t{1} << 44;   // address space that nothing else uses
constexpr uintptr_t APART = uintptr_t{1} << 35;   // from one tensor's end to the next one's
constexpr uintptr_t TENSORS = 1000, PAGE = 4096;  // at a time

std::mutex mutex;
uintptr_t bytes[TENSORS];  // of whole pages; 0 where there is no tensor
uintptr_t next = 0;
bool guarded = false;

uintptr_t end_of(uintptr_t place) { return FIRST + place * APART + APART / 2; }

// Less than torch asks for where the size isn't a multiple of it: nothing is left over at the end.
uintptr_t alignment_of(size_t size) {
  uintptr_t alignment = 64;
  while (alignment > 4 && size % alignment != 0) alignment /= 2;
  return alignment;
}

}  // namespace

extern "C" void guard_memory() { guarded = true; }

extern "C" int posix_memalign(void** result, size_t alignment, size_t size) {
  const std::lock_guard lock(mutex);
  if (!guarded) return (*result = __libc_memalign(alignment, size)) == nullptr ? ENOMEM : 0;
  const uintptr_t pages = size / PAGE * PAGE + PAGE;
  for (uintptr_t tried = 0; tried < TENSORS; ++tried) {
    const uintptr_t place = next++ % TENSORS;
    if (bytes[place] != 0) continue;
    void* start = reinterpret_cast<void*>(end_of(place) - pages);
    if (mmap(start, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != start) {
      return ENOMEM;
    }
    bytes[place] = pages;
    *result = reinterpret_cast<void*>((end_of(place) - size) / alignment_of(size) * alignment_of(size));
    return 0;
  }
  return ENOMEM;
}

extern "C" void free(void* pointer) {
  const uintptr_t place = (reinterpret_cast<uintptr_t>(pointer) - FIRST) / APART;
  if (reinterpret_cast<uintptr_t>(pointer) < FIRST || place >= TENSORS) return __libc_free(pointer);
  const std::lock_guard lock(mutex);
  munmap(reinterpret_cast<void*>(end_of(place) - bytes[place]), bytes[place]);
  bytes[place] = 0;
}
