#include "convert/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "formats/base/text.h"

namespace q2c {

Progress::Progress(Show show) : show_(show == Show::kAuto && ::isatty(STDERR_FILENO) != 1 ? Show::kNever : show) {}
Progress::~Progress() { End(); }

void Progress::Begin(std::string what, uint64_t total_bytes) {
  End();
  what_ = std::move(what);
  total_ = total_bytes;
  done_ = 0;
  start_ = drawn_ = std::chrono::steady_clock::now();
}

void Progress::Add(uint64_t bytes) {
  const uint64_t done = done_.fetch_add(bytes) + bytes;
  if (show_ == Show::kNever) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  constexpr auto kPause = std::chrono::milliseconds(100);
  const auto now = std::chrono::steady_clock::now();
  if (!lock.owns_lock() || now - drawn_ < kPause) return;
  drawn_ = now;
  Draw(done);
}

void Progress::Draw(uint64_t done) {
  if (show_ == Show::kLines) {
    fmt::print(stderr, "progress: {}, {} of {} bytes\n", what_, std::min(done, total_), total_);
    return;
  }
  const double seconds = std::chrono::duration<double>(drawn_ - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const double left = rate > 0 && total_ > done ? static_cast<double>(total_ - done) / rate : 0;
  fmt::print(stderr, "\r\033[K{} {} of {}, {}/s, {:.0f} s left", what_, HumanBytes(done), HumanBytes(total_), HumanBytes(static_cast<uint64_t>(rate)), left);
  (void)std::fflush(stderr);
}

void Progress::End() {
  if (show_ == Show::kLines && !what_.empty()) Draw(done_);
  if (show_ == Show::kAuto && !what_.empty()) {
    fmt::print(stderr, "\r\033[K");
    (void)std::fflush(stderr);
  }
  what_.clear();
}

}  // namespace q2c
