#include "formats/containers/torch.h"

#include <algorithm>

#include "formats/base/text.h"
#include "formats/containers/file_kind.h"
#include "formats/containers/torch_legacy.h"
#include "formats/containers/torch_zip.h"

namespace q2c {
namespace {

constexpr uint64_t kHead = 512;

// A pickle of something else, or no pickle at all. It is run as data, so that a name in it that has
// no place there is reported as what it is.
Error Unknown(const ByteSource& file, ByteView head) {
  constexpr uint64_t kTried = 1U << 20U;
  std::vector<std::byte> front(std::min(kTried, file.bytes));
  if (Status status = file.read(0, front); !status.ok()) return std::move(status).TakeError();
  const Result<Pickle> pickle = ReadPickle(front, TorchGlobals());
  if (!pickle.ok() && pickle.error().id == "pickle-code") return pickle.error();
  const bool pickled = pickle.ok() || (!head.empty() && head[0] == std::byte{0x80});
  return Malformed("file-type", "this is {}, not a PyTorch file of weights", pickled ? "a Python pickle of something else" : "no file of a known kind");
}

}  // namespace

Result<TorchHeader> ParseTorchHeader(const ByteSource& file) {
  std::vector<std::byte> head(std::min(kHead, file.bytes));
  QC_TRY(file.read(0, head));
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());  // NOLINT: bytes as text
  if (text.starts_with("PK\x03\x04")) return ReadTorchZip(file);
  if (IsTorchLegacy(head)) return ReadTorchLegacy(file);
  if (const std::optional<std::string> kind = KnownKind(text)) return Malformed("file-type", "this is {}", *kind);
  if (head.size() > 8 && text[8] == '{' && Load<uint64_t>(head.data()) <= file.bytes) return Malformed("file-type", "this is a safetensors file; rename it to *.safetensors");
  constexpr size_t kTarMark = 257;
  if (text.size() > kTarMark && text.substr(kTarMark).starts_with("ustar")) return Refused("torch-unread", "this is a tar archive, as PyTorch wrote them before 0.1.12; load and save it with a newer one");
  return Unknown(file, head);
}

Result<TorchHeader> ReadTorchHeader(const InputFile& file) {
  Result<TorchHeader> header = ParseTorchHeader(SourceOf(file));
  if (!header.ok()) return std::move(header).TakeError().Within(fmt::format("file '{}'", Escape(file.path())));
  return header;
}

}  // namespace q2c
