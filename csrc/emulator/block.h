// CUDA blocks on one CPU thread, for tests: every CUDA thread is a fiber that runs until it has to wait.
//
// What a GPU leaves undefined happens in the worst way, so that a kernel that relies on it fails here:
//   - a warp runs as far as it can before the next one starts, first to last or last to first;
//   - a few blocks run at a time, and one gives way to the next where all of its threads wait;
//   - shared memory is full of NaNs at the start;
//   - an asynchronous copy reads and writes at the last moment, when its thread waits for it, or else at once.
// Waiting for ever, lanes of a warp at different instructions, and addresses outside of shared memory are errors.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

namespace hive::emulator {

constexpr int WARP = 32;

// The order of events that a GPU doesn't define; tests set it.
struct Timing {
  bool last_warp_first = false;
  bool copies_at_once = false;
};
inline Timing timing;

// Of every grid only this many blocks run, its last ones: a test of far addresses doesn't wait for all others.
inline int64_t last_blocks = INT64_MAX;

struct Copy {
  uint32_t to;
  const void* from;
  bool inside;
};

class Block {
 public:
  Block(int threads, int shared_bytes);

  // Runs the kernel in every block of a grid. Throws what a thread threw, or std::logic_error where threads wait for ever.
  static void run_grid(const std::function<void()>& kernel, int x, int y, int threads, int shared_bytes);

  static Block& current();

  int thread() const { return running_; }
  int threads() const { return static_cast<int>(fibers_.size()); }
  int x, y, grid_y;

  // `bytes` bytes of shared memory at `address`; throws unless they are inside and aligned to their number.
  unsigned char* shared(uint32_t address, uint32_t bytes);

  void copy(Copy copy);
  void wait_for_copies();

  // Waits until `threads` threads are at this barrier. Returns the number of those in which the condition holds.
  int barrier(int number, int threads, bool condition);

  // Waits until all lanes of a warp have passed their operands; the last one calls `work` with those of lanes 0 to 31.
  void together(const char* instruction, void* operands, const std::function<void(void* const*)>& work);

  // The number of bank conflicts of load_matrices since the library was loaded.
  static int64_t bank_conflicts;

 private:
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    std::vector<Copy> copies;
    bool waiting, done;
  };
  struct Warp {
    const char* instruction;
    int arrived;
    void* operands[WARP];
  };
  struct Barrier {
    int arrived, count, result;
    std::vector<int> waiting;
  };

  void begin(const std::function<void()>& kernel, int x, int y, int grid_y);
  bool run();  // runs every warp as far as it can go; returns whether one could
  void end() const;

  static void start();
  void wait();
  bool advance(int thread);

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  std::vector<Barrier> barriers_;
  std::vector<unsigned char> memory_;
  uint32_t offset_;  // of the first aligned byte
  ucontext_t scheduler_;
  int running_ = 0;
  const std::function<void()>* kernel_ = nullptr;
  std::exception_ptr error_;
};

}  // namespace hive::emulator
