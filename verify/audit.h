// One audit: everything that can be said about a checkpoint without a loader, a network or a
// second model. Nothing is written and nothing in the folder is run.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/model.h"
#include "verify/checks/data.h"
#include "verify/findings.h"
#include "verify/forecast.h"
#include "verify/integrity.h"
#include "verify/maker.h"

namespace q2c {

struct AuditRequest {
  bool read_data = false;       // every byte, not only headers, configs and small tensors
  bool check_manifest = false;  // compare with the checksums that are on disk
  std::string target;           // judge and repair for this one; empty: that of the manifest, or one that fits
  std::optional<ZeroConvention> zeros;
  bool generic = false;  // judge a model whose architecture is not known by its tensors
  Links links = Links::kRefuse;
  unsigned jobs = 1;
  std::function<Status()> check_stop;
};

// Bytes and tensors of one part of the model, such as "embedding" or "layer 3".
struct PartSize {
  std::string name;
  uint64_t tensors = 0;
  uint64_t bytes = 0;
};

// What is known of one quantised linear without reading its codes.
struct LinearSummary {
  std::string name;
  std::string layout;
  uint64_t in_features = 0;
  uint64_t out_features = 0;
  uint64_t group_size = 0;
  uint32_t bits = 0;
  uint64_t bytes = 0;
  double zero_evidence = 0;  // mean of (code - zero field), where it was sampled
  bool sampled = false;
};

struct AuditReport {
  std::string path;                // as it was given
  std::string target;
  std::vector<Finding> findings;   // worst first
  FixWords words;
  Maker maker;
  Json facts;                      // what the forecast was made from
  std::vector<Forecast> forecast;
  std::string class_name;          // empty: no architecture was made out
  std::string quantisation;        // in a few words
  std::string zero_evidence;
  uint64_t files = 0;              // weight files whose header was read
  uint64_t tensors = 0;
  uint64_t bytes = 0;              // of all tensors
  std::vector<PartSize> parts;
  std::vector<PartSize> dtypes;
  std::vector<LinearSummary> linears;
  std::optional<DataReport> data;
  std::optional<IntegrityReport> integrity;
  bool nothing_to_compare = false;  // --check-manifest found no checksums

  uint64_t Count(Severity severity) const;
};

// `path` is a folder, a Hub name or a single weight file.
// Errors: kUsage for what is not there or a target that is not known; kTryAgain for a file that
// changes meanwhile; what `check_stop` says. Everything else is a finding.
Result<AuditReport> RunAudit(const std::string& path, const AuditRequest& request);

}  // namespace q2c
