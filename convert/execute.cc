#include "convert/execute.h"

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "convert/produce.h"
#include "formats/base/hash.h"
#include "formats/base/text.h"
#include "formats/base/timings.h"

namespace q2c {
namespace {

constexpr uint64_t kChunkBytes = 4U << 20U;
constexpr size_t kBuffers = 16;
constexpr size_t kAlignment = 4096;

// Consecutive bytes of one tensor, or the padding behind it.
struct Piece {
  size_t tensor = 0;
  uint64_t from = 0;
  uint64_t bytes = 0;
  bool padding = false;
};

// Consecutive bytes of one shard: the head, or pieces of tensors.
struct Chunk {
  size_t file = 0;
  size_t sequence = 0;  // 0, 1, 2, … within the file
  uint64_t offset = 0;
  uint64_t bytes = 0;
  bool head = false;
  std::vector<Piece> pieces;
};

class Buffer {
 public:
  explicit Buffer(uint64_t bytes) : bytes_(bytes), memory_(static_cast<std::byte*>(std::aligned_alloc(kAlignment, CeilDiv(bytes, kAlignment) * kAlignment))) {
    if (memory_ == nullptr) throw std::bad_alloc();
  }
  uint64_t capacity() const { return bytes_; }
  MutableBytes First(uint64_t bytes) { return {memory_.get(), bytes}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }  // NOLINT: from aligned_alloc
  };
  uint64_t bytes_;
  std::unique_ptr<std::byte, Free> memory_;
};

// Cuts one shard into chunks. What is made anew is cut at whole rows, in tiles that the source
// can be read in as well; what is cast, at whole blocks.
std::vector<Chunk> CutIntoChunks(const Plan& plan, size_t f) {
  const PlannedFile& file = plan.files[f];
  std::vector<Chunk> chunks;
  chunks.push_back({f, 0, 0, file.head.size(), true, {}});
  Chunk chunk{f, 1, file.head.size(), 0, false, {}};
  const auto close = [&] {
    const Chunk next{f, chunk.sequence + 1, chunk.offset + chunk.bytes, 0, false, {}};
    if (chunk.bytes == 0) return;
    chunks.push_back(std::move(chunk));
    chunk = next;
  };
  const auto add = [&](const Piece& piece) {
    chunk.pieces.push_back(piece);
    chunk.bytes += piece.bytes;
    if (chunk.bytes >= kChunkBytes) close();
  };
  for (const size_t t : file.tensors) {
    const PlannedTensor& tensor = plan.tensors[t];
    const uint64_t unit = UnitBytes(plan, tensor);
    for (uint64_t from = 0; from < tensor.bytes;) {
      uint64_t room = (kChunkBytes - chunk.bytes) / unit * unit;
      if (room == 0 && chunk.bytes > 0) {
        close();
        continue;
      }
      if (room == 0) room = unit;  // larger than a chunk by itself
      const uint64_t bytes = std::min(tensor.bytes - from, room);
      add({t, from, bytes, false});
      from += bytes;
    }
    if (tensor.padding > 0) add({t, 0, tensor.padding, true});
  }
  close();
  return chunks;
}

// The order of work: as many shards at a time as there are workers, in turn, since the
// SHA-256 of one file can be taken by one worker only.
std::vector<Chunk> OrderOfWork(const Plan& plan, unsigned jobs) {
  std::vector<Chunk> order;
  std::vector<std::vector<Chunk>> active;
  std::vector<size_t> at;
  size_t next_file = 0;
  while (next_file < plan.files.size() || !active.empty()) {
    while (active.size() < jobs && next_file < plan.files.size()) {
      active.push_back(CutIntoChunks(plan, next_file++));
      at.push_back(0);
    }
    for (size_t i = 0; i < active.size();) {
      order.push_back(std::move(active[i][at[i]]));
      if (++at[i] < active[i].size()) {
        ++i;
        continue;
      }
      active.erase(active.begin() + static_cast<std::ptrdiff_t>(i));
      at.erase(at.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  return order;
}

// One digest over a shard, taken in order of offset: a lane.
class Lane {
 public:
  virtual ~Lane() = default;
  virtual void Update(const Chunk& chunk, ByteView bytes) = 0;
};

class FileLane : public Lane {
 public:
  void Update(const Chunk& /*chunk*/, ByteView bytes) override { sha256_.Update(bytes); }
  std::string Hex() { return sha256_.Hex(); }

 private:
  Sha256 sha256_;
};

class TensorLane : public Lane {
 public:
  TensorLane(const Plan& plan, std::vector<std::string>* digests) : plan_(plan), digests_(digests) {}
  void Update(const Chunk& chunk, ByteView bytes) override {
    uint64_t at = 0;
    for (const Piece& piece : chunk.pieces) {
      const PlannedTensor& tensor = plan_.tensors[piece.tensor];
      const ByteView part = bytes.subspan(at, piece.bytes);
      at += piece.bytes;
      if (piece.padding) continue;
      if (piece.bytes == tensor.bytes) {
        (*digests_)[piece.tensor] = Xxh3::Of(part);
        continue;
      }
      if (piece.from == 0) tensor_ = Xxh3();
      tensor_.Update(part);
      if (piece.from + piece.bytes == tensor.bytes) (*digests_)[piece.tensor] = tensor_.Hex();
    }
  }

 private:
  const Plan& plan_;
  std::vector<std::string>* digests_;
  Xxh3 tensor_;
};

// A shard of the output on disk.
struct Shard {
  OutputFile file;
  bool shared = false;  // has its bytes already, the input's own; they are only read and digested
};

class Executor {
 public:
  Executor(const Plan& plan, const ExecuteOptions& options, const std::vector<Shard>& files, std::vector<std::string>* tensor_digests)
      : plan_(plan), options_(options), files_(files), chunks_(OrderOfWork(plan, options.jobs)), buffers_left_(std::max(kBuffers, size_t{4} * options.jobs)) {
    for (size_t f = 0; f < files.size(); ++f) {
      auto sha256 = std::make_unique<FileLane>();
      file_lanes_.push_back(sha256.get());
      lanes_.push_back({std::move(sha256), 0, false, {}});
      lanes_.push_back({std::make_unique<TensorLane>(plan, tensor_digests), 0, false, {}});
    }
  }

  Status Run() {
    {
      std::jthread flusher([this] { Flush(); });
      {
        std::vector<std::jthread> workers;
        for (unsigned i = 1; i < options_.jobs; ++i) workers.emplace_back([this] { Work(); });
        Work();
      }
      const std::lock_guard lock(mutex_);
      done_ = true;
      written_.notify_one();
    }
    if (error_.has_value()) return std::move(*error_);
    return {};
  }
  ManifestFile Finish(size_t file) { 
    const PlannedFile& planned = plan_.files[file];
    return {planned.name, planned.bytes, file_lanes_[file]->Hex(), Xxh3::Of(AsBytes(planned.head)), planned.head.size()};
   }

 private:
  static constexpr size_t kLanes = 2;  // of a shard: SHA-256 of the file, XXH3 of its tensors
  struct OrderedLane {
    std::unique_ptr<Lane> lane;
    size_t next = 0;  // sequence of the chunk that is needed now
    bool busy = false;
    std::map<size_t, std::pair<const Chunk*, std::shared_ptr<Buffer>>> waiting;  // written, not yet digested
  };

  void Work() {
    for (;;) {
      size_t index = 0;
      std::shared_ptr<Buffer> buffer = Take(&index);
      if (buffer == nullptr) return;
      Status status = CheckStop(options_.stop);
      if (status.ok()) status = Write(chunks_[index], buffer->First(chunks_[index].bytes));
      if (!status.ok()) return Fail(std::move(status).TakeError());
      Digest(chunks_[index], std::move(buffer));
    }
  }

  // A buffer and the next chunk together, so that the first chunk in flight always has a
  // buffer and the digests can always go on. Null: no work is left, or somebody failed.
  std::shared_ptr<Buffer> Take(size_t* index) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return error_.has_value() || taken_ == chunks_.size() || !free_.empty() || buffers_left_ > 0; });
    if (error_.has_value() || taken_ == chunks_.size()) return nullptr;
    *index = taken_++;
    std::shared_ptr<Buffer> buffer;
    if (!free_.empty()) {
      buffer = std::move(free_.back());
      free_.pop_back();
    } else {
      --buffers_left_;
      buffer = std::make_shared<Buffer>(kChunkBytes);
    }
    // A part that is made whole may need more for once.
    if (chunks_[*index].bytes > kChunkBytes) buffer = std::make_shared<Buffer>(chunks_[*index].bytes);
    return buffer;
  }

  Status Write(const Chunk& chunk, MutableBytes out) {
    if (chunk.head) {
      // A head may be longer than a buffer; it is written from the plan.
      return files_[chunk.file].shared ? Status() : files_[chunk.file].file.WriteAt(0, AsBytes(plan_.files[chunk.file].head));
    }
    uint64_t at = 0;
    for (size_t i = 0; i < chunk.pieces.size();) {
      const Piece& piece = chunk.pieces[i];
      const PlannedTensor& tensor = plan_.tensors[piece.tensor];
      if (piece.padding || tensor.source == PlannedTensor::Source::kZeros) {
        std::ranges::fill(out.subspan(at, piece.bytes), std::byte{0});
        at += piece.bytes;
        ++i;
        continue;
      }
      if (tensor.source != PlannedTensor::Source::kCopy) {
        QC_TRY(Produce(plan_, tensor, piece.from, out.subspan(at, piece.bytes)));
        at += piece.bytes;
        ++i;
        continue;
      }
      // Neighbours in the source that stay neighbours are read at once.
      const TensorInfo& first = plan_.model->info(tensor.input);
      const uint64_t from = plan_.InputOffset(tensor) + piece.from;
      uint64_t bytes = piece.bytes;
      for (++i; i < chunk.pieces.size(); ++i) {
        const Piece& follower = chunk.pieces[i];
        const PlannedTensor& next = plan_.tensors[follower.tensor];
        if (follower.padding || next.source != PlannedTensor::Source::kCopy || follower.from != 0) break;
        const TensorInfo& info = plan_.model->info(next.input);
        if (!first.strides.empty() || !info.strides.empty() || info.file != first.file || info.offset + plan_.InputOffset(next) != first.offset + from + bytes) break;
        bytes += follower.bytes;
      }
      QC_TRY(plan_.model->checkpoint->Read(first, from, out.subspan(at, bytes)));
      at += bytes;
    }
    if (!files_[chunk.file].shared) QC_TRY(files_[chunk.file].file.WriteAt(chunk.offset, out));
    if (options_.progress != nullptr) options_.progress->Add(chunk.bytes);
    return {};
  }

  // Hands the bytes to both lanes of the shard. Whoever brings the chunk that a lane waits for
  // works off all that follow without a gap.
  void Digest(const Chunk& chunk, std::shared_ptr<Buffer> buffer) {
    std::unique_lock lock(mutex_);
    if (!files_[chunk.file].shared) unflushed_.push_back(&chunk);
    written_.notify_one();
    for (size_t l = 0; l < kLanes; ++l) lanes_[chunk.file * kLanes + l].waiting.emplace(chunk.sequence, std::pair(&chunk, buffer));
    buffer.reset();
    for (size_t l = 0; l < kLanes; ++l) Drain(&lanes_[chunk.file * kLanes + l], &lock);
  }

  void Drain(OrderedLane* lane, std::unique_lock<std::mutex>* lock) {
    while (!lane->busy && !lane->waiting.empty() && lane->waiting.begin()->first == lane->next) {
      auto [chunk, buffer] = std::move(lane->waiting.begin()->second);
      lane->waiting.erase(lane->waiting.begin());
      lane->busy = true;
      lock->unlock();
      const Timed timed(Stage::kHash);
      lane->lane->Update(*chunk, chunk->head ? AsBytes(plan_.files[chunk->file].head) : ByteView(buffer->First(chunk->bytes)));
      lock->lock();
      lane->busy = false;
      ++lane->next;
      // The last lane to finish returns the buffer. Only holders of the lock copy or drop it.
      if (buffer.use_count() > 1) continue;
      if (buffer->capacity() == kChunkBytes) {
        free_.push_back(std::move(buffer));
      } else {
        ++buffers_left_;
      }
      changed_.notify_one();
    }
  }

  // Pushes what was written towards the disk, so that the final sync finds little to do. On a
  // thread of its own, because it waits where the device is slower than the workers.
  void Flush() {
    std::unique_lock lock(mutex_);
    for (;;) {
      written_.wait(lock, [this] { return done_ || !unflushed_.empty(); });
      if (unflushed_.empty()) return;
      const std::vector<const Chunk*> chunks = std::exchange(unflushed_, {});
      lock.unlock();
      for (const Chunk* chunk : chunks) files_[chunk->file].file.StartWriteback(chunk->offset, chunk->bytes);
      lock.lock();
      if (error_.has_value()) return;
    }
  }

  void Fail(Error error) {
    const std::lock_guard lock(mutex_);
    if (!error_.has_value()) error_ = std::move(error);
    changed_.notify_all();
  }

  const Plan& plan_;
  const ExecuteOptions& options_;
  const std::vector<Shard>& files_;
  const std::vector<Chunk> chunks_;

  std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;  // a buffer came back, or somebody failed
  std::condition_variable written_;  // there is something to flush, or nothing any more
  std::vector<OrderedLane> lanes_;   // kLanes for each shard
  std::vector<FileLane*> file_lanes_;  // those that take the SHA-256
  std::vector<const Chunk*> unflushed_;
  bool done_ = false;
  size_t taken_ = 0;
  size_t buffers_left_;
  std::vector<std::shared_ptr<Buffer>> free_;
  std::optional<Error> error_;
};

// With all its room reserved, or with the bytes of the input in place.
Result<Shard> CreateShard(const Plan& plan, const PlannedFile& file, const Dir& out, Untouched untouched) {
  if (file.same_as.has_value() && untouched != Untouched::kCopy) {
    QC_ASSIGN(const InputFile in, plan.model->checkpoint->Reopen(plan.model->checkpoint->files()[*file.same_as]));
    if (untouched == Untouched::kHardlink) {
      QC_ASSIGN(OutputFile linked, OutputFile::Link(out, file.name, in));
      return Shard{std::move(linked), true};
    }
    QC_ASSIGN(std::optional<OutputFile> clone, OutputFile::Clone(out, file.name, in));
    if (clone.has_value()) return Shard{std::move(*clone), true};
    if (untouched == Untouched::kReflink) return Refused("reflink", "'{}' cannot share the blocks of '{}': the file system cannot, or they are two; give --untouched=copy", Escape(out.PathOf(file.name)), Escape(in.path()));
  }
  QC_ASSIGN(OutputFile made, OutputFile::Create(out, file.name));
  QC_TRY(made.Preallocate(file.bytes));
  return Shard{std::move(made), false};
}

Status CopySideFile(const Plan& plan, const SideFile& side, const Dir& out, const ExecuteOptions& options, Written* written) {
  QC_ASSIGN(const InputFile in, plan.model->checkpoint->location().OpenMember(side.name));
  QC_ASSIGN(OutputFile file, OutputFile::Create(out, side.name));
  Sha256 sha256;
  Xxh3 xxh3;
  std::vector<std::byte> buffer(std::min<uint64_t>(kChunkBytes, in.bytes()));
  for (uint64_t offset = 0; offset < in.bytes(); offset += buffer.size()) {
    QC_TRY(CheckStop(options.stop));
    const MutableBytes part(buffer.data(), std::min<uint64_t>(buffer.size(), in.bytes() - offset));
    QC_TRY(in.ReadAt(offset, part));
    QC_TRY(file.WriteAt(offset, part));
    sha256.Update(part);
    xxh3.Update(part);
  }
  QC_TRY(in.CheckUnchanged());
  if (side.executable) QC_TRY(file.SetExecutable());
  written->files.push_back({side.name, in.bytes(), sha256.Hex(), xxh3.Hex(), 0});
  written->unsynced.push_back(std::move(file));
  return {};
}

}  // namespace

Status CheckStop(const std::atomic<int>* stop) {
  const int signal = stop == nullptr ? 0 : stop->load();
  if (signal == 0) return {};
  return MakeError(signal == SIGTERM ? Code::kTerminated : Code::kInterrupted, "interrupted", "stopped by signal {}; nothing was left behind", signal);
}

Result<Written> Execute(const Plan& plan, const Dir& out, const ExecuteOptions& options) {
  Written written;
  written.tensor_digests.resize(plan.tensors.size(), Xxh3::Of({}));
  // All room is reserved before the first byte is written.
  std::vector<Shard> shards;
  for (const PlannedFile& file : plan.files) {
    QC_ASSIGN(Shard shard, CreateShard(plan, file, out, options.untouched));
    shards.push_back(std::move(shard));
  }
  {
    Executor executor(plan, options, shards, &written.tensor_digests);
    QC_TRY(executor.Run());
    for (size_t f = 0; f < shards.size(); ++f) written.files.push_back(executor.Finish(f));
  }
  for (Shard& shard : shards) written.unsynced.push_back(std::move(shard.file));
  for (const SideFile& side : plan.SideFiles()) QC_TRY(CopySideFile(plan, side, out, options, &written));
  return written;
}

}  // namespace q2c
