// device.cpp: the Device interface over the engine: memory with bounds, objects loaded with dlopen, launches that run
// to completion on the calling thread.
#include "runtime/sim/engine.h"

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

namespace phasec {
namespace {

using namespace sim;

Status writeAll(int fd, std::span<const uint8_t> bytes) {
  for (size_t done = 0; done < bytes.size();) {
    ssize_t n = write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Status::io(std::string("sim: cannot write the object to load: ") + strerror(errno));
    done += size_t(n);
  }
  return {};
}

/// A spelling of /proc/self/fd/N that no earlier load used: the loader takes a name that it knows for the object it
/// knows, and descriptors are reused.
std::string descriptorPath(int fd) {
  static std::mutex mutex;
  static uint64_t count = 0;
  std::lock_guard lock(mutex);
  std::string path = "/proc/self";
  for (uint64_t n = ++count; n; n >>= 1) path += n & 1 ? "/." : "/";
  return path + "/fd/" + std::to_string(fd);
}

Result<void *> openImage(std::span<const uint8_t> image) {
  int fd = -1;
  std::string path;
#ifdef MFD_CLOEXEC
  fd = memfd_create("phasec-sim", MFD_CLOEXEC);
  if (fd >= 0) path = descriptorPath(fd);
#endif
  bool on_disk = fd < 0;
  if (on_disk) {
    path = "/tmp/phasec-sim-XXXXXX";
    fd = mkstemp(path.data());
    if (fd < 0) return Status::io(std::string("sim: cannot create a temporary file in /tmp: ") + strerror(errno));
  }
  Status written = writeAll(fd, image);
  void *handle = written.ok() ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
  close(fd);
  if (on_disk) unlink(path.c_str());
  if (!written.ok()) return written;
  if (!handle) return Status::device(std::string("sim: cannot load the object: ") + dlerror());
  return handle;
}

class SimKernel : public LoadedKernel {
public:
  SimKernel(void *handle, std::string entry) : handle_(handle), entry_(std::move(entry)) {}
  ~SimKernel() override { dlclose(handle_); }

  Status resolve() {
    bind = reinterpret_cast<phasec_sim::BindFunction *>(dlsym(handle_, "phasec_sim_bind"));
    entry = reinterpret_cast<phasec_sim::EntryFunction *>(dlsym(handle_, (entry_ + "__sim").c_str()));
    auto *bytes =
        reinterpret_cast<phasec_sim::ArgsBytesFunction *>(dlsym(handle_, (entry_ + "__sim_args_bytes").c_str()));
    if (!bind || !entry || !bytes)
      return Status::device("sim: the object has no kernel named " + entry_ + "; was it compiled for the sim?");
    args_bytes = size_t(bytes());
    return {};
  }
  Result<int> residentCtas(const LaunchShape &) const override { return kCtasMax; }

  phasec_sim::BindFunction *bind = nullptr;
  phasec_sim::EntryFunction *entry = nullptr;
  size_t args_bytes = 0;

private:
  void *handle_;
  std::string entry_;
};

class SimDevice : public Device {
public:
  explicit SimDevice(const SimOptions &options) : options_(options) {
    info_.device = "sim";
    info_.sms = options.ctas;
    info_.name = "sim (" + std::to_string(options.ctas) + " CTAs)";
    info_.shared_bytes_max = kSharedBytesMax;
    info_.cooperative = true;
  }

  const DeviceInfo &info() const override { return info_; }

  Result<DevicePtr> allocate(int64_t bytes) override {
    std::lock_guard lock(mutex_);
    return memory_.allocate(bytes);
  }
  void release(DevicePtr address) override {
    std::lock_guard lock(mutex_);
    memory_.release(address);
  }
  Status upload(DevicePtr to, const void *from, int64_t bytes) override {
    std::lock_guard lock(mutex_);
    PHASEC_TRY(memory_.check(to, bytes, "upload"));
    if (bytes > 0) memcpy(reinterpret_cast<void *>(to), from, size_t(bytes));
    return {};
  }
  Status download(void *to, DevicePtr from, int64_t bytes) override {
    std::lock_guard lock(mutex_);
    PHASEC_TRY(memory_.check(from, bytes, "download"));
    if (bytes > 0) memcpy(to, reinterpret_cast<const void *>(from), size_t(bytes));
    return {};
  }
  Status fill(DevicePtr to, uint8_t value, int64_t bytes) override {
    std::lock_guard lock(mutex_);
    PHASEC_TRY(memory_.check(to, bytes, "fill"));
    if (bytes > 0) memset(reinterpret_cast<void *>(to), value, size_t(bytes));
    return {};
  }

  Result<std::unique_ptr<LoadedKernel>> load(std::span<const uint8_t> image, const std::string &entry) override {
    PHASEC_ASSIGN(void *handle, openImage(image));
    auto kernel = std::make_unique<SimKernel>(handle, entry);
    PHASEC_TRY(kernel->resolve());
    return Result<std::unique_ptr<LoadedKernel>>(std::move(kernel));
  }

  Status launch(const LoadedKernel &loaded, const LaunchShape &shape, const void *args, size_t args_bytes,
                StreamHandle) override {
    const auto &kernel = static_cast<const SimKernel &>(loaded);
    std::lock_guard lock(mutex_);
    if (shape.ctas < 1 || shape.threads < 32 || shape.threads % 32 != 0 || shape.threads > kThreadsMax ||
        shape.shared_bytes < 0)
      return {ErrorKind::Refused, "sim: cannot launch " + std::to_string(shape.ctas) + " CTAs of " +
                                      std::to_string(shape.threads) + " threads (whole warps, at most 1024)"};
    if (shape.ctas > kCtasMax || shape.shared_bytes > kSharedBytesMax)
      return {ErrorKind::Refused, "sim: " + std::to_string(shape.ctas) + " CTAs with " +
                                      std::to_string(shape.shared_bytes) +
                                      " bytes of shared memory each cannot be resident; the limits are " +
                                      std::to_string(kCtasMax) + " and " + std::to_string(kSharedBytesMax)};
    if (args_bytes != kernel.args_bytes)
      return Status::internal("sim: the kernel takes " + std::to_string(kernel.args_bytes) +
                              " bytes of parameters, not " + std::to_string(args_bytes));
    std::vector<std::max_align_t> block(args_bytes / sizeof(std::max_align_t) + 1);
    memcpy(block.data(), args, args_bytes);
    LaunchRequest request{shape, kernel.entry, kernel.bind, block.data(), options_.seed + launches_++ * 0x632be59bull};
    Engine engine(request, stacks_, memory_);
    last_ = engine.run();
    counters_ = engine.counters();
    return last_;
  }

  Status synchronize() override {
    std::lock_guard lock(mutex_);
    return last_;
  }
  Status mark(int slot, StreamHandle) override {
    if (slot < 0) return Status::usage("sim: negative timing slot");
    std::lock_guard lock(mutex_);
    if (size_t(slot) >= marks_.size()) marks_.resize(size_t(slot) + 1);
    marks_[size_t(slot)] = std::chrono::steady_clock::now();
    return {};
  }
  Result<double> elapsedMicroseconds(int from, int to) override {
    std::lock_guard lock(mutex_);
    auto set = [&](int slot) { return slot >= 0 && size_t(slot) < marks_.size() && marks_[size_t(slot)] != Clock(); };
    if (!set(from) || !set(to)) return Status::usage("sim: a timing slot was read before it was marked");
    return std::chrono::duration<double, std::micro>(marks_[size_t(to)] - marks_[size_t(from)]).count();
  }
  LaunchCounters counters() const override {
    std::lock_guard lock(mutex_);
    return counters_;
  }

private:
  using Clock = std::chrono::steady_clock::time_point;
  SimOptions options_;
  DeviceInfo info_;
  mutable std::mutex mutex_;
  Memory memory_;
  StackPool stacks_;
  Status last_;
  LaunchCounters counters_;
  uint64_t launches_ = 0;
  std::vector<Clock> marks_;
};

} // namespace

std::unique_ptr<Device> openSim(const SimOptions &options) { return std::make_unique<SimDevice>(options); }

} // namespace phasec
