#include "convert/execute.h"

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "formats/base/hash.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr uint64_t kChunkBytes = 4U << 20U;
constexpr size_t kBuffers = 16;
constexpr size_t kAlignment = 4096;

// Consecutive bytes of one tensor.
struct Piece {
  size_t tensor = 0;
  uint64_t from = 0;
  uint64_t bytes = 0;
};

// Consecutive bytes of one shard: the head, or pieces of tensors.
struct Chunk {
  size_t file = 0;
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

// Cuts every shard into chunks. A tensor that is made, not copied, is one piece.
std::vector<Chunk> CutIntoChunks(const Plan& plan) {
  std::vector<Chunk> chunks;
  for (size_t f = 0; f < plan.files.size(); ++f) {
    const PlannedFile& file = plan.files[f];
    chunks.push_back({f, 0, file.head.size(), true, {}});
    Chunk chunk{f, file.head.size(), 0, false, {}};
    const auto close = [&] {
      const uint64_t next = chunk.offset + chunk.bytes;
      if (chunk.bytes > 0) chunks.push_back(std::move(chunk));
      chunk = Chunk{f, next, 0, false, {}};
    };
    for (const size_t t : file.tensors) {
      const PlannedTensor& tensor = plan.tensors[t];
      if (tensor.source == PlannedTensor::Source::kEncode) {
        if (chunk.bytes + tensor.bytes > kChunkBytes) close();
        chunk.pieces.push_back({t, 0, tensor.bytes});
        chunk.bytes += tensor.bytes;
        if (chunk.bytes >= kChunkBytes) close();
        continue;
      }
      for (uint64_t from = 0; from < tensor.bytes;) {
        const uint64_t bytes = std::min(tensor.bytes - from, kChunkBytes - chunk.bytes);
        chunk.pieces.push_back({t, from, bytes});
        chunk.bytes += bytes;
        from += bytes;
        if (chunk.bytes == kChunkBytes) close();
      }
    }
    close();
  }
  return chunks;
}

// Digests of one shard, taken in order of offset.
class ShardDigest {
 public:
  ShardDigest(const Plan& plan, const PlannedFile& file, std::vector<std::string>* tensor_digests)
      : plan_(plan), file_(file), tensor_digests_(tensor_digests) {}

  void Update(const Chunk& chunk, ByteView bytes) {
    sha256_.Update(bytes);
    xxh3_.Update(bytes);
    uint64_t at = 0;
    for (const Piece& piece : chunk.pieces) {
      const PlannedTensor& tensor = plan_.tensors[piece.tensor];
      const ByteView part = bytes.subspan(at, piece.bytes);
      at += piece.bytes;
      if (piece.bytes == tensor.bytes) {
        (*tensor_digests_)[piece.tensor] = Xxh3::Of(part);
        continue;
      }
      if (piece.from == 0) tensor_ = Xxh3();
      tensor_.Update(part);
      if (piece.from + piece.bytes == tensor.bytes) (*tensor_digests_)[piece.tensor] = tensor_.Hex();
    }
  }
  ManifestFile Finish() { return {file_.name, file_.bytes, sha256_.Hex(), xxh3_.Hex()}; }

 private:
  const Plan& plan_;
  const PlannedFile& file_;
  std::vector<std::string>* tensor_digests_;
  Sha256 sha256_;
  Xxh3 xxh3_;
  Xxh3 tensor_;
};

class Executor {
 public:
  Executor(const Plan& plan, const ExecuteOptions& options, const std::vector<OutputFile>& files, std::vector<std::string>* tensor_digests)
      : plan_(plan), options_(options), files_(files), chunks_(CutIntoChunks(plan)), shards_(files.size()), buffers_left_(std::max(kBuffers, size_t{4} * options.jobs)) {
    for (size_t f = 0; f < files.size(); ++f) shards_[f].digest = std::make_unique<ShardDigest>(plan, plan.files[f], tensor_digests);
    for (size_t c = 0; c < chunks_.size(); ++c) {
      if (chunks_[c].head) shards_[chunks_[c].file].next = c;
    }
  }

  Status Run() {
    {
      std::vector<std::jthread> workers;
      for (unsigned i = 1; i < options_.jobs; ++i) workers.emplace_back([this] { Work(); });
      Work();
    }
    if (error_.has_value()) return std::move(*error_);
    return {};
  }
  ManifestFile Finish(size_t file) { return shards_[file].digest->Finish(); }

 private:
  struct Shard {
    std::unique_ptr<ShardDigest> digest;
    size_t next = 0;  // the chunk whose bytes the digest needs now
    bool busy = false;
    std::map<size_t, std::unique_ptr<Buffer>> waiting;  // written, not yet digested
  };

  void Work() {
    for (;;) {
      size_t index = 0;
      std::unique_ptr<Buffer> buffer = Take(&index);
      if (buffer == nullptr) return;
      Status status = CheckStop(options_.stop);
      if (status.ok()) status = Produce(chunks_[index], buffer->First(chunks_[index].bytes));
      if (!status.ok()) return Fail(std::move(status).TakeError());
      Digest(index, std::move(buffer));
    }
  }

  // A buffer and the next chunk together, so that the first chunk in flight always has a
  // buffer and the digests can always go on. Null: no work is left, or somebody failed.
  std::unique_ptr<Buffer> Take(size_t* index) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return error_.has_value() || taken_ == chunks_.size() || !free_.empty() || buffers_left_ > 0; });
    if (error_.has_value() || taken_ == chunks_.size()) return nullptr;
    *index = taken_++;
    std::unique_ptr<Buffer> buffer;
    if (!free_.empty()) {
      buffer = std::move(free_.back());
      free_.pop_back();
    } else {
      --buffers_left_;
      buffer = std::make_unique<Buffer>(kChunkBytes);
    }
    // A part that is made whole may need more for once.
    if (chunks_[*index].bytes > kChunkBytes) buffer = std::make_unique<Buffer>(chunks_[*index].bytes);
    return buffer;
  }

  Status Produce(const Chunk& chunk, MutableBytes out) {
    if (chunk.head) {
      // A head may be longer than a buffer; it is written from the plan.
      return files_[chunk.file].WriteAt(0, AsBytes(plan_.files[chunk.file].head));
    }
    uint64_t at = 0;
    for (size_t i = 0; i < chunk.pieces.size();) {
      const Piece& piece = chunk.pieces[i];
      const PlannedTensor& tensor = plan_.tensors[piece.tensor];
      switch (tensor.source) {
        case PlannedTensor::Source::kCopy: {
          // Neighbours in the source that stay neighbours are read at once.
          const TensorInfo& first = plan_.model->info(tensor.input);
          uint64_t bytes = piece.bytes;
          ++i;
          for (; i < chunk.pieces.size(); ++i) {
            const PlannedTensor& next = plan_.tensors[chunk.pieces[i].tensor];
            if (next.source != PlannedTensor::Source::kCopy || chunk.pieces[i].from != 0) break;
            const TensorInfo& info = plan_.model->info(next.input);
            if (info.file != first.file || info.offset != first.offset + piece.from + bytes) break;
            bytes += chunk.pieces[i].bytes;
          }
          QC_TRY(plan_.model->checkpoint->Read(first, piece.from, out.subspan(at, bytes)));
          at += bytes;
          break;
        }
        case PlannedTensor::Source::kZeros:
          std::ranges::fill(out.subspan(at, piece.bytes), std::byte{0});
          at += piece.bytes;
          ++i;
          break;
        case PlannedTensor::Source::kEncode: {
          QC_ASSIGN(const QuantLinear decoded, DecodeLinear(*plan_.model, *tensor.linear, tensor.part->components));
          QC_TRY(tensor.part->encode(decoded, out.subspan(at, piece.bytes)));
          at += piece.bytes;
          ++i;
          break;
        }
      }
    }
    QC_TRY(files_[chunk.file].WriteAt(chunk.offset, out));
    if (options_.progress != nullptr) options_.progress->Add(chunk.bytes);
    return {};
  }

  // Hands the bytes to the shard's digest. Whoever brings the chunk that the digest waits for
  // works off all that follow without a gap.
  void Digest(size_t index, std::unique_ptr<Buffer> buffer) {
    std::unique_lock lock(mutex_);
    Shard& shard = shards_[chunks_[index].file];
    shard.waiting.emplace(index, std::move(buffer));
    while (!shard.busy && !shard.waiting.empty() && shard.waiting.begin()->first == shard.next) {
      auto entry = shard.waiting.extract(shard.waiting.begin());
      const Chunk& chunk = chunks_[entry.key()];
      shard.busy = true;
      lock.unlock();
      const ByteView bytes = chunk.head ? AsBytes(plan_.files[chunk.file].head) : ByteView(entry.mapped()->First(chunk.bytes));
      shard.digest->Update(chunk, bytes);
      lock.lock();
      shard.busy = false;
      ++shard.next;
      if (entry.mapped()->capacity() == kChunkBytes) {
        free_.push_back(std::move(entry.mapped()));
      } else {
        ++buffers_left_;
      }
      changed_.notify_one();
    }
  }

  void Fail(Error error) {
    const std::lock_guard lock(mutex_);
    if (!error_.has_value()) error_ = std::move(error);
    changed_.notify_all();
  }

  const Plan& plan_;
  const ExecuteOptions& options_;
  const std::vector<OutputFile>& files_;
  const std::vector<Chunk> chunks_;

  std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  std::vector<Shard> shards_;
  size_t taken_ = 0;
  size_t buffers_left_;
  std::vector<std::unique_ptr<Buffer>> free_;
  std::optional<Error> error_;
};

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
  written->files.push_back({side.name, in.bytes(), sha256.Hex(), xxh3.Hex()});
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
  std::vector<OutputFile> shards;
  for (const PlannedFile& file : plan.files) {
    QC_ASSIGN(OutputFile shard, OutputFile::Create(out, file.name));
    QC_TRY(shard.Preallocate(file.bytes));
    shards.push_back(std::move(shard));
  }
  {
    Executor executor(plan, options, shards, &written.tensor_digests);
    QC_TRY(executor.Run());
    for (size_t f = 0; f < shards.size(); ++f) written.files.push_back(executor.Finish(f));
  }
  std::ranges::move(shards, std::back_inserter(written.unsynced));
  for (const SideFile& side : plan.model->checkpoint->side_files()) QC_TRY(CopySideFile(plan, side, out, options, &written));
  return written;
}

}  // namespace q2c
