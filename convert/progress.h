// Progress on a terminal: bytes, rate, time left. Elsewhere silent, or a line of bytes now and then for a program to read.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace q2c {

class Progress {
 public:
  enum class Show { kAuto, kLines, kNever };
  explicit Progress(Show show);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Begin(std::string what, uint64_t total_bytes);
  void Add(uint64_t bytes);  // from any thread
  void End();                // clears the line, or tells the last one

 private:
  void Draw(uint64_t done);

  Show show_;  // kAuto on a terminal only
  std::string what_;
  uint64_t total_ = 0;
  std::atomic<uint64_t> done_ = 0;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point drawn_;
  std::mutex mutex_;
};

}  // namespace q2c
