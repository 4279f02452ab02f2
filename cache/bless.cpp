// bless.cpp: blessed files: written so that equal contents are equal bytes, merged from shards, compared.
#include "cache/store.h"
#include "cache/trust.h"

#include <llvm/Support/JSON.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace phasec {

namespace {

using EntrySource = std::function<Result<Compiled>(size_t index)>;

Status syncFile(const std::string &path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  // The mode is stated, not left to the umask: a group-writable blessed file would be refused by every reader.
  bool good = fd >= 0 && fchmod(fd, 0644) == 0 && fsync(fd) == 0;
  std::string why = std::strerror(errno);
  if (fd >= 0) close(fd);
  return good ? Status() : Status::io("cannot write " + path + ": " + why);
}

/// Rows in the order given, one transaction, VACUUM: nothing in the file depends on when, where or in which order they
/// came.
Status fillBlessed(const std::string &path, size_t count, const EntrySource &entry) {
  PHASEC_ASSIGN(std::unique_ptr<Store> store, Store::createBlessed(path));
  // The staged file is thrown away on any error, so it needs no journal; syncFile() makes the result durable.
  PHASEC_TRY(store->database().execute("PRAGMA synchronous=OFF; PRAGMA temp_store=MEMORY"));
  {
    PHASEC_ASSIGN(Transaction transaction, Transaction::begin(store->database()));
    for (size_t i = 0; i < count; ++i) {
      PHASEC_ASSIGN(Compiled compiled, entry(i));
      PHASEC_ASSIGN(bool inserted, store->insertRow(compiled));
      if (!inserted)
        return Status::internal("two rows of " + compiled.artefact.key.text() + " reached one blessed file");
    }
    PHASEC_TRY(transaction.commit());
  }
  return store->database().execute("VACUUM");
}

/// Writes beside the destination, then renames: nobody ever sees half a file.
Status writeSorted(const std::string &path, size_t count, const EntrySource &entry) {
  struct stat there;
  if (stat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode))
    return Status::io("cannot write " + path + ": it is no regular file, and renaming onto it would replace it; give another path");
  std::string staged = path + ".tmp-" + std::to_string(getpid());
  (void)unlink(staged.c_str());
  Status status = fillBlessed(staged, count, entry);
  if (status.ok()) status = syncFile(staged);
  if (status.ok()) {
    Result<std::string> digest = fileSha256(staged);
    status = digest.ok() ? writeSidecar(path, *digest) : digest.status();
  }
  if (status.ok() && rename(staged.c_str(), path.c_str()) != 0)
    status = Status::io("cannot write " + path + ": " + std::strerror(errno));
  if (!status.ok()) {
    (void)unlink(staged.c_str());
    (void)unlink((staged + "-journal").c_str());
  }
  return status;
}

/// What one row is, wherever it lies.
struct Ticket {
  Key key;
  std::string toolchain, checksum, listing_checksum;
  size_t source; ///< index of the entry or of the input file
};

/// Sorts by key and toolchain, drops equal rows, refuses unequal ones.
Result<int64_t> sortTickets(std::vector<Ticket> &tickets, const std::vector<std::string> &origins) {
  std::stable_sort(tickets.begin(), tickets.end(), [](const Ticket &a, const Ticket &b) {
    return std::tie(a.key, a.toolchain) < std::tie(b.key, b.toolchain);
  });
  std::vector<Ticket> unique;
  for (Ticket &ticket : tickets) {
    if (unique.empty() || unique.back().key != ticket.key || unique.back().toolchain != ticket.toolchain) {
      unique.push_back(std::move(ticket));
      continue;
    }
    const Ticket &first = unique.back();
    if (first.checksum == ticket.checksum && first.listing_checksum == ticket.listing_checksum) continue;
    auto digestOf = [](const Ticket &one) { return one.checksum + "/" + one.listing_checksum.substr(0, 8); };
    auto originOf = [&](const Ticket &one) { return one.source < origins.size() ? " in " + origins[one.source] : ""; };
    return Status(ErrorKind::CacheDamage, ticket.key.text() + " by " + ticket.toolchain +
                                              " has different bytes: " + digestOf(first) + originOf(first) + " and " +
                                              digestOf(ticket) + originOf(ticket) + "; compile it again in one place");
  }
  int64_t dropped = int64_t(tickets.size() - unique.size());
  tickets = std::move(unique);
  return dropped;
}

} // namespace

Status writeBlessed(const std::string &path, const std::vector<Compiled> &entries) {
  std::vector<Ticket> tickets;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Artefact &artefact = entries[i].artefact;
    auto fingerprint = fingerprintBytes(artefact.key.fingerprint);
    Checksum sum = checksumOf({artefact.key.wo_split, fingerprint, artefact.toolchain, artefact.layer, artefact.target,
                               artefact.config, artefact.resources, artefact.sections.text(), artefact.payload});
    Checksum texts = listingChecksum(sum, entries[i].listing.source, entries[i].listing.ptx);
    tickets.push_back({artefact.key, artefact.toolchain, hexOf(sum), hexOf(texts), i});
  }
  PHASEC_TRY(sortTickets(tickets, {}).status());
  return writeSorted(path, tickets.size(), [&](size_t i) -> Result<Compiled> { return entries[tickets[i].source]; });
}

// ---- merge -----------------------------------------------------------------------------------------------------

namespace {

Result<std::unique_ptr<Store>> openMergeInput(const std::string &path) {
  PHASEC_ASSIGN(VerifyReport report, verifyStore(path));
  if (!report.ok())
    return Status(ErrorKind::CacheDamage, "not merging " + path + ": " + report.findings.front() +
                                              (report.findings.size() > 1 ? " (and more; `phasec cache verify`)" : ""));
  return Store::openReadOnly(path);
}

} // namespace

Result<MergeReport> mergeStores(const std::vector<std::string> &inputs, const std::string &out) {
  std::vector<std::unique_ptr<Store>> stores;
  std::vector<Ticket> tickets;
  for (const std::string &input : inputs) {
    PHASEC_ASSIGN(std::unique_ptr<Store> store, openMergeInput(input));
    PHASEC_TRY(store->forEach([&](const EntryInfo &info, std::string_view) {
      tickets.push_back({info.key, info.toolchain, info.checksum, info.listing_checksum, stores.size()});
    }));
    stores.push_back(std::move(store));
  }
  MergeReport report;
  PHASEC_ASSIGN(report.duplicates, sortTickets(tickets, inputs));
  report.entries = int64_t(tickets.size());
  PHASEC_TRY(writeSorted(out, tickets.size(), [&](size_t i) -> Result<Compiled> {
    const Ticket &ticket = tickets[i];
    Store &store = *stores[ticket.source];
    PHASEC_ASSIGN(Store::Found found, store.find(ticket.key, ticket.toolchain, ToolchainPolicy::Match));
    PHASEC_ASSIGN(std::optional<Listing> listing, store.listing(ticket.key, ticket.toolchain));
    if (!found.artefact || !listing)
      return Status(ErrorKind::CacheDamage, store.path() + " changed while it was merged: " + ticket.key.text());
    return Compiled{*found.artefact, std::move(*listing), {}};
  }));
  PHASEC_ASSIGN(report.sha256, fileSha256(out));
  return report;
}

// ---- diff ------------------------------------------------------------------------------------------------------

namespace {

/// Every scalar of a JSON text by its path ("kernels.0.registers" -> "168").
void flatten(const llvm::json::Value &value, const std::string &path, std::map<std::string, std::string> &out) {
  auto below = [&](const std::string &name) { return path.empty() ? name : path + "." + name; };
  if (const llvm::json::Object *object = value.getAsObject()) {
    for (const auto &item : *object) flatten(item.second, below(llvm::StringRef(item.first).str()), out);
  } else if (const llvm::json::Array *array = value.getAsArray()) {
    for (size_t i = 0; i < array->size(); ++i) flatten((*array)[i], below(std::to_string(i)), out);
  } else if (auto integer = value.getAsInteger()) {
    out[path] = std::to_string(*integer);
  } else if (auto number = value.getAsNumber()) {
    out[path] = std::to_string(*number);
  } else if (auto text = value.getAsString()) {
    out[path] = text->str();
  } else if (auto truth = value.getAsBoolean()) {
    out[path] = *truth ? "true" : "false";
  }
}

std::map<std::string, std::string> resourceMap(const std::string &json) {
  std::map<std::string, std::string> out;
  llvm::Expected<llvm::json::Value> value = llvm::json::parse(json);
  if (value)
    flatten(*value, "", out);
  else
    llvm::consumeError(value.takeError());
  return out;
}

EntryChange changeOf(const EntryInfo &from, const EntryInfo &to) {
  EntryChange change{from, to, {}};
  auto note = [&](const std::string &what, const std::string &a, const std::string &b, bool digest = false) {
    if (a != b) change.changes.push_back({what, a, b, digest});
  };
  note("wo_split", std::to_string(from.key.wo_split), std::to_string(to.key.wo_split));
  note("fingerprint", from.key.fingerprint.hex(), to.key.fingerprint.hex(), true);
  note("toolchain", from.toolchain, to.toolchain);
  note("config", from.config, to.config);
  std::map<std::string, std::string> a = resourceMap(from.resources), b = resourceMap(to.resources);
  for (const auto &[name, value] : a) note(name, value, b.count(name) ? b[name] : "");
  for (const auto &[name, value] : b)
    if (!a.count(name)) note(name, "", value);
  note("payload_bytes", std::to_string(from.payload_bytes), std::to_string(to.payload_bytes));
  if (change.changes.empty()) note("bytes", from.checksum, to.checksum, true);
  if (change.changes.empty()) note("source or PTX", from.listing_checksum, to.listing_checksum, true);
  return change;
}

/// Pairs what is left of both sides by `identity`, takes the pairs out, and hands them to `pair`.
void matchBy(std::vector<EntryInfo> &left, std::vector<EntryInfo> &right,
             const std::function<std::string(const EntryInfo &)> &identity,
             const std::function<void(const EntryInfo &, const EntryInfo &)> &pair) {
  std::multimap<std::string, size_t> open;
  for (size_t i = 0; i < right.size(); ++i) open.emplace(identity(right[i]), i);
  std::vector<bool> taken(right.size());
  std::erase_if(left, [&](const EntryInfo &info) {
    auto match = open.find(identity(info));
    if (match == open.end()) return false;
    pair(info, right[match->second]);
    taken[match->second] = true;
    open.erase(match);
    return true;
  });
  std::vector<EntryInfo> rest;
  for (size_t i = 0; i < right.size(); ++i)
    if (!taken[i]) rest.push_back(std::move(right[i]));
  right = std::move(rest);
}

} // namespace

Result<StoreDiff> diffStores(const std::string &a, const std::string &b) {
  StoreDiff diff;
  PHASEC_ASSIGN(diff.removed, listEntries(a));
  PHASEC_ASSIGN(diff.added, listEntries(b));
  auto record = [&](const EntryInfo &from, const EntryInfo &to) {
    bool same = from.key == to.key && from.toolchain == to.toolchain && from.checksum == to.checksum &&
                from.listing_checksum == to.listing_checksum;
    if (same)
      ++diff.same;
    else
      diff.changed.push_back(changeOf(from, to));
  };
  auto by_row = [](const EntryInfo &info) { return info.key.text() + info.toolchain; };
  auto by_key = [](const EntryInfo &info) { return info.key.text(); };
  // After an edit of a template every fingerprint is new; the configuration says which kernel became which.
  auto by_config = [](const EntryInfo &info) {
    return info.layer + '\n' + info.target + '\n' + std::to_string(info.key.wo_split) + '\n' + info.config;
  };
  matchBy(diff.removed, diff.added, by_row, record);
  matchBy(diff.removed, diff.added, by_key, record);
  matchBy(diff.removed, diff.added, by_config, record);
  return diff;
}

} // namespace phasec
