// clang_json.h: lets clang read the JSON.h of LLVM 14 and 15. That header uses a std::vector of a class that is complete
// only further down; clang instantiates constexpr members where they are named, and in C++20 all of vector's are. CMake
// puts this header in front of every file that sees LLVM when both are so. It specialises that one vector: the same
// bytes, with members that are not constexpr and are therefore instantiated at the end of the file.
#pragma once

#include <concepts>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

namespace llvm::json {
class Value;

/// Selects the unspecialised vector as the implementation; empty, so the layout is that of the LLVM library's own.
struct ValueAllocator : std::allocator<Value> {
  template <class T> struct rebind { using other = ValueAllocator; };
};
} // namespace llvm::json

template <class Allocator>
  requires std::same_as<Allocator, std::allocator<llvm::json::Value>>
class std::vector<llvm::json::Value, Allocator> {
  using Value = typename Allocator::value_type; // named so, it is looked into only when a member is used
  using Storage = std::vector<Value, llvm::json::ValueAllocator>;
  Storage storage_;

public:
  using value_type = Value;
  using iterator = typename Storage::iterator;
  using const_iterator = typename Storage::const_iterator;

  vector() {}
  vector(const vector &other) : storage_(other.storage_) {}
  vector(vector &&other) noexcept : storage_(std::move(other.storage_)) {}
  vector(std::initializer_list<Value> values) : storage_(values) {}
  template <class It> vector(It first, It last) : storage_(first, last) {}
  vector &operator=(const vector &other) { return storage_ = other.storage_, *this; }
  vector &operator=(vector &&other) noexcept { return storage_ = std::move(other.storage_), *this; }
  ~vector() {}

  Value &operator[](size_t i) { return storage_[i]; }
  const Value &operator[](size_t i) const { return storage_[i]; }
  Value &front() { return storage_.front(); }
  const Value &front() const { return storage_.front(); }
  Value &back() { return storage_.back(); }
  const Value &back() const { return storage_.back(); }
  Value *data() { return storage_.data(); }
  const Value *data() const { return storage_.data(); }
  iterator begin() { return storage_.begin(); }
  const_iterator begin() const { return storage_.begin(); }
  iterator end() { return storage_.end(); }
  const_iterator end() const { return storage_.end(); }
  bool empty() const { return storage_.empty(); }
  size_t size() const { return storage_.size(); }
  void reserve(size_t count) { storage_.reserve(count); }
  void clear() { storage_.clear(); }
  void push_back(const Value &value) { storage_.push_back(value); }
  void push_back(Value &&value) { storage_.push_back(std::move(value)); }
  template <class... Args> void emplace_back(Args &&...args) { storage_.emplace_back(std::forward<Args>(args)...); }
  void pop_back() { storage_.pop_back(); }
  template <class... Args> iterator insert(const_iterator at, Args &&...args) {
    return storage_.insert(at, std::forward<Args>(args)...);
  }
  template <class... Args> iterator emplace(const_iterator at, Args &&...args) {
    return storage_.emplace(at, std::forward<Args>(args)...);
  }
  iterator erase(const_iterator at) { return storage_.erase(at); }
  friend bool operator==(const vector &a, const vector &b) { return a.storage_ == b.storage_; }
};
