// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "fettle/result.h"

namespace fettle::host {

using Attributes = std::vector<std::pair<std::string, std::string>>;  ///< sorted by key

/// One file of an artifact.
struct ManifestEntry {
  std::string path;    ///< relative, '/' between parts, no "..", sorted
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
  std::string technique;  ///< id
  std::string key_text;   ///< the canonical JSON whose SHA-256 is the key
  std::vector<std::pair<std::string, Artifact>> outputs;  ///< by port
  std::map<std::string, Metric> metrics;
  std::map<std::string, Series> series;
  std::vector<std::string> warnings;
  double seconds = 0;
  std::uint64_t peak_memory = 0;  ///< of the process while it ran, bytes
};

/// The content-addressed store: <root>/objects, <root>/records, <root>/staging, <root>/checkpoints, <root>/inputs,
/// <root>/leases, <root>/runs. Several processes may use it at once. Everything appears by fsync and atomic rename.
/// [any thread]
class Store {
 public:
  static Result<Store> open(const std::string& root);
  const std::string& root() const;

  /// The record of a finished step whose outputs are all present (files outside the store: unchanged), or nothing.
  std::optional<Record> find(const std::string& key) const;
  /// The folder of an artifact (made on first use from objects and links).
  Result<std::string> path_of(const Artifact& artifact) const;

  /// An artifact made of files that lie outside the store and stay there. Each file is hashed once and remembered by
  /// (device, inode, size, mtime, ctime). A folder's files keep their relative names; single files their own name.
  Result<Artifact> link(const std::string& kind, const std::vector<std::string>& paths) const;

  /// A step in progress under its key: an empty staging folder per output, a scratch folder, and a checkpoint folder that
  /// survives a killed run. Holds the key's lease; commit() writes objects, then the record.
  class Transaction {
   public:
    Transaction(Transaction&&) noexcept;
    Transaction& operator=(Transaction&&) noexcept;
    ~Transaction();  ///< without commit: removes staging and scratch, keeps the checkpoint, releases the lease
    std::string staging(const std::string& port) const;
    std::string scratch() const;
    std::string checkpoint() const;
    /// Hashes and moves the outputs into the store, then writes the record.
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

  struct Problem { std::string path, what; };
  struct Summary { std::uint64_t records = 0, objects = 0, bytes = 0, garbage_bytes = 0; };
  Result<Summary> summary() const;
  /// Rehashes every object and linked file that records name.
  Result<std::vector<Problem>> verify() const;
  /// Removes objects no record names, stale staging and leases of dead processes; with `older_than_days`, also records not used since.
  Result<std::uint64_t> collect(std::optional<int> older_than_days, bool dry_run) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace fettle::host
