// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace fettle::host {

using Attributes = std::vector<std::pair<std::string, std::string>>;  ///< sorted by key

/// One file of an artifact.
struct ManifestEntry {
  std::string path;  ///< relative, '/' between parts, no "..", sorted
  std::uint64_t size = 0;
  std::string sha256;  ///< 64 hex digits
  std::string link;    ///< absolute path of a file outside the store that is this file, or ""
};

/// An immutable tree of files with a kind. Its digest is over kind, paths, sizes and content hashes, so a linked file
/// and a copied one are the same artifact.
struct Artifact {
  std::string kind;
  std::string digest;  ///< "sha256:..."
  std::vector<ManifestEntry> files;
  Attributes attributes;
  std::uint64_t bytes() const;
};

/// A number a step reported.
struct Metric {
  double value = 0;
  std::optional<double> standard_error;
  std::string unit;
};
struct Series {
  std::vector<std::pair<double, double>> points;
};

/// What one execution of a step gave: written last, so its existence means that the step is done.
struct Record {
  std::string key;
  std::string technique;                                  ///< id
  std::string key_text;                                   ///< the canonical JSON whose SHA-256 is the key
  std::vector<std::pair<std::string, Artifact>> outputs;  ///< by port
  std::map<std::string, Metric> metrics;
  std::map<std::string, Series> series;
  std::vector<std::string> warnings;
  double seconds = 0;
  std::uint64_t peak_memory = 0;  ///< of the process while it ran, bytes
};

/// The content-addressed store: <root>/objects, <root>/records, <root>/views, <root>/staging, <root>/checkpoints,
/// <root>/inputs, <root>/leases, <root>/runs (docs/explanation/caching.md). Several processes may use it at once.
/// Everything appears by fsync and atomic rename. Damage of the store itself is Code::corrupt_data with where() ==
/// "store". [any thread]
class Store {
 public:
  /// Opens the store at `root`, making it if need be; waits while another process collects garbage in it.
  static Result<Store> open(const std::string& root);
  const std::string& root() const;

  /// The record of a finished step whose outputs are all present (files outside the store: same content), or nothing,
  /// and then `why_not` says why.
  std::optional<Record> find(const std::string& key, std::string* why_not = nullptr) const;
  /// The folder of an artifact (made on first use from objects and links). Read only.
  Result<std::string> path_of(const Artifact& artifact) const;
  /// An error if the store's disk has less than `bytes` left.
  Status check_space(std::uint64_t bytes) const;

  /// An artifact made of files that lie outside the store and stay there. Each file is hashed once and remembered by
  /// (device, inode, size, mtime, ctime). A folder's files keep their relative names, and names that begin with a dot
  /// are left out (.git, .cache); single files keep their own name. Links to files are followed, links to folders
  /// refused.
  Result<Artifact> link(const std::string& kind, const std::vector<std::string>& paths) const;

  /// A step in progress under its key: an empty staging folder per output, a scratch folder, and a checkpoint folder
  /// that survives a killed run. Holds the key's lease; commit() writes objects, then the record.
  class Transaction {
   public:
    Transaction(Transaction&&) noexcept;
    Transaction& operator=(Transaction&&) noexcept;
    ~Transaction();  ///< without commit: removes staging and scratch, keeps the checkpoint, releases the lease
    std::string staging(const std::string& port) const;
    std::string scratch() const;
    std::string checkpoint() const;
    /// Hashes and moves the outputs into the store, then writes the record. Attributes that `record.outputs` has for a
    /// port are kept. A port of `port_kinds` (port, kind) whose folder is empty is an error. Removes staging, scratch
    /// and checkpoint and releases the lease. Parallel over files in the caller's TBB arena.
    Result<Record> commit(Record record, const std::vector<std::pair<std::string, std::string>>& port_kinds);

   private:
    friend class Store;
    struct Impl;
    explicit Transaction(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
  };
  /// Waits while another process works on the same key (single flight); returns its record instead if it finished.
  /// `cancelled` is polled while waiting.
  Result<std::variant<Transaction, Record>> begin(const std::string& key, const std::vector<std::string>& ports,
                                                  const std::function<bool()>& cancelled) const;

  struct Problem {
    std::string path, what;
  };
  struct Summary {
    std::uint64_t records = 0, objects = 0, bytes = 0, garbage_bytes = 0;
  };
  Result<Summary> summary() const;
  /// Rehashes every object and linked file that records name.
  Result<std::vector<Problem>> verify() const;
  /// Removes objects no record names, damaged records, leftovers of killed runs and checkpoints of finished steps; with
  /// `older_than_days`, also records not used since. Returns the bytes this frees (`dry_run`: would free). An error
  /// while another process has the store open.
  Result<std::uint64_t> collect(std::optional<int> older_than_days, bool dry_run) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace fettle::host
