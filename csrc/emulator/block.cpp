#include "emulator/block.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace hive::emulator {

namespace {
constexpr int STACK_BYTES = 64 * 1024;
constexpr int BARRIERS = 16;
constexpr int64_t RESIDENT = 4;  // blocks at a time
constexpr uint32_t ALIGNMENT = 128;
Block* current_block = nullptr;
}  // namespace

int64_t Block::bank_conflicts = 0;

Block& Block::current() { return *current_block; }

Block::Block(int threads, int shared_bytes)
    : warps_(threads / WARP), barriers_(BARRIERS), memory_(shared_bytes + ALIGNMENT) {
  if (threads % WARP != 0) throw std::logic_error("a block of " + std::to_string(threads) + " threads");
  offset_ = ALIGNMENT - reinterpret_cast<uintptr_t>(memory_.data()) % ALIGNMENT;
  for (int i = 0; i < threads; ++i) {
    fibers_.push_back(std::make_unique<Fiber>());
    fibers_.back()->stack = std::make_unique_for_overwrite<char[]>(STACK_BYTES);
  }
}

void Block::run_grid(const std::function<void()>& kernel, int x, int y, int threads, int shared_bytes) {
  const int64_t count = int64_t{x} * y;
  std::vector<std::unique_ptr<Block>> blocks;
  while (static_cast<int64_t>(blocks.size()) < std::min(count, RESIDENT)) {
    blocks.push_back(std::make_unique<Block>(threads, shared_bytes));
  }
  for (int64_t first = std::max<int64_t>(count - last_blocks, 0); first < count; first += RESIDENT) {
    blocks.resize(std::min(count - first, RESIDENT));
    for (size_t i = 0; i < blocks.size(); ++i) {
      const auto index = first + static_cast<int64_t>(i);
      blocks[i]->begin(kernel, static_cast<int>(index % x), static_cast<int>(index / x), y);
    }
    for (bool moved = true; moved;) {
      moved = false;
      for (auto& block : blocks) moved |= block->run();
    }
    for (const auto& block : blocks) block->end();
  }
}

void Block::begin(const std::function<void()>& kernel, int x_, int y_, int grid_y_) {
  x = x_, y = y_, grid_y = grid_y_;
  kernel_ = &kernel;
  error_ = nullptr;
  std::fill(memory_.begin(), memory_.end(), 0xff);
  std::fill(warps_.begin(), warps_.end(), Warp{});
  std::fill(barriers_.begin(), barriers_.end(), Barrier{});
  for (auto& fiber : fibers_) {
    fiber->copies.clear();
    fiber->waiting = fiber->done = false;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    fiber->context.uc_link = &scheduler_;
    makecontext(&fiber->context, &Block::start, 0);
  }
}

bool Block::run() {
  current_block = this;
  const int warps = static_cast<int>(warps_.size());
  bool moved = false;
  for (int i = 0; i < warps; ++i) {
    const int first = WARP * (timing.last_warp_first ? warps - 1 - i : i);
    for (bool again = true; again;) {
      again = false;
      for (int thread = first; thread < first + WARP; ++thread) again |= advance(thread);
      moved |= again;
    }
  }
  return moved;
}

void Block::end() const {
  for (const auto& fiber : fibers_) {
    if (!fiber->done) throw std::logic_error("threads of a block wait for ever");
    if (!fiber->copies.empty()) throw std::logic_error("a thread ended without waiting for its copies");
  }
}

bool Block::advance(int thread) {
  Fiber& fiber = *fibers_[thread];
  if (fiber.done || fiber.waiting) return false;
  running_ = thread;
  swapcontext(&scheduler_, &fiber.context);
  if (error_) std::rethrow_exception(error_);
  return true;
}

void Block::start() {
  Block& block = current();
  try {
    (*block.kernel_)();
  } catch (...) {
    block.error_ = std::current_exception();
  }
  block.fibers_[block.running_]->done = true;
}

void Block::wait() {
  Fiber& fiber = *fibers_[running_];
  fiber.waiting = true;
  swapcontext(&fiber.context, &scheduler_);
}

unsigned char* Block::shared(uint32_t address, uint32_t bytes) {
  if (address % bytes != 0 || address + bytes > memory_.size() - ALIGNMENT) {
    throw std::logic_error(std::to_string(bytes) + " bytes at " + std::to_string(address) + " of shared memory");
  }
  return memory_.data() + offset_ + address;
}

void Block::copy(Copy copy) {
  fibers_[running_]->copies.push_back(copy);
  if (timing.copies_at_once) wait_for_copies();
}

void Block::wait_for_copies() {
  for (const Copy& copy : fibers_[running_]->copies) {
    unsigned char* to = shared(copy.to, 16);
    if (reinterpret_cast<uintptr_t>(copy.from) % 16 != 0) throw std::logic_error("a copy from an unaligned address");
    if (copy.inside) {
      std::memcpy(to, copy.from, 16);
    } else {
      std::memset(to, 0, 16);
    }
  }
  fibers_[running_]->copies.clear();
}

int Block::barrier(int number, int threads, bool condition) {
  Barrier& barrier = barriers_.at(number);
  barrier.count += condition;
  if (++barrier.arrived == threads) {
    for (int thread : barrier.waiting) fibers_[thread]->waiting = false;
    barrier.waiting.clear();
    barrier.result = barrier.count;
    barrier.arrived = barrier.count = 0;
  } else {
    barrier.waiting.push_back(running_);
    wait();
  }
  return barrier.result;
}

void Block::together(const char* instruction, void* operands, const std::function<void(void* const*)>& work) {
  Warp& warp = warps_[running_ / WARP];
  if (warp.arrived != 0 && std::strcmp(warp.instruction, instruction) != 0) {
    throw std::logic_error(std::string("lanes of a warp at ") + warp.instruction + " and at " + instruction);
  }
  warp.instruction = instruction;
  warp.operands[running_ % WARP] = operands;
  if (++warp.arrived < WARP) {
    wait();
    return;
  }
  work(warp.operands);
  warp.arrived = 0;
  const int first = running_ / WARP * WARP;
  for (int thread = first; thread < first + WARP; ++thread) fibers_[thread]->waiting = false;
}

}  // namespace hive::emulator
