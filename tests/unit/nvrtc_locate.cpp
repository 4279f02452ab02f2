// nvrtc_locate.cpp: finding libnvrtc without opening it, and what is said when there is none.
#include "compiler/nvrtc.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

using namespace phasec;
namespace fs = std::filesystem;

namespace {

struct TemporaryDirectory {
  fs::path path = fs::temp_directory_path() / ("phasec_nvrtc_" + std::to_string(reinterpret_cast<uintptr_t>(this)));
  TemporaryDirectory() { fs::create_directories(path); }
  ~TemporaryDirectory() { fs::remove_all(path); }
  std::string file(const std::string &name, const std::string &bytes) const {
    fs::create_directories((path / name).parent_path());
    std::ofstream(path / name) << bytes;
    return (path / name).string();
  }
};

} // namespace

TEST_CASE("no NVRTC: a toolchain error that says where it looked and what to install") {
  NvrtcSearch search;
  search.system = false;
  auto found = locateNvrtc(search);
  REQUIRE_FALSE(found.ok());
  CHECK(found.status().kind() == ErrorKind::Toolchain);
  for (const char *part : {"nvidia-cuda-nvrtc", "apt-get install", "PHASEC_NVRTC", "/usr/local/cuda"})
    CHECK_MESSAGE(found.status().text().find(part) != std::string::npos, part);
  auto opened = Nvrtc::open(search);
  CHECK(opened.status().text() == found.status().text());
}

TEST_CASE("an explicit path is the only one tried") {
  NvrtcSearch search;
  search.explicit_path = "/nonexistent/libnvrtc.so";
  auto found = locateNvrtc(search);
  REQUIRE_FALSE(found.ok());
  CHECK(found.status().text().find("/nonexistent/libnvrtc.so") != std::string::npos);

  TemporaryDirectory directory;
  search.explicit_path = directory.file("libnvrtc.so.13", "not a library");
  found = locateNvrtc(search);
  REQUIRE(found.ok());
  CHECK(found->bytes == 13);
  auto opened = Nvrtc::open(search);
  REQUIRE_FALSE(opened.ok());
  CHECK(opened.status().kind() == ErrorKind::Toolchain);
  CHECK(opened.status().text().find("cannot open NVRTC") != std::string::npos);
}

TEST_CASE("directories in order, newest name first, links resolved, wheels last") {
  TemporaryDirectory directory;
  std::string real = directory.file("real/libnvrtc.so.12.8.93", "twelve");
  fs::create_directories(directory.path / "lib");
  fs::create_symlink(real, directory.path / "lib/libnvrtc.so.12");
  directory.file("site/nvidia/cu13/lib/libnvrtc.so.13", "thirteen!");
  directory.file("site/nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "old wheel");

  NvrtcSearch search;
  search.system = false;
  search.loader_dirs = {(directory.path / "absent").string(), (directory.path / "lib").string()};
  search.site_packages = {(directory.path / "site").string()};
  auto found = locateNvrtc(search);
  REQUIRE(found.ok());
  CHECK(found->path == fs::canonical(real).string());
  CHECK(found->bytes == 6);

  directory.file("lib/libnvrtc.so.13", "newer than twelve");
  found = locateNvrtc(search);
  REQUIRE(found.ok());
  CHECK(found->bytes == 17);

  search.loader_dirs.clear();
  found = locateNvrtc(search);
  REQUIRE(found.ok());
  CHECK(found->path.find("/nvidia/cu13/lib/") != std::string::npos);
}

TEST_CASE("the identity moves with path, size and time, and with nothing else") {
  TemporaryDirectory directory;
  NvrtcSearch search;
  search.explicit_path = directory.file("libnvrtc.so", "abc");
  std::string first = (*locateNvrtc(search)).identity();
  CHECK((*locateNvrtc(search)).identity() == first);
  fs::last_write_time(search.explicit_path, fs::last_write_time(search.explicit_path) + std::chrono::milliseconds(3));
  std::string touched = (*locateNvrtc(search)).identity();
  CHECK(touched != first);
  directory.file("libnvrtc.so", "abcd");
  CHECK((*locateNvrtc(search)).identity() != touched);
}
