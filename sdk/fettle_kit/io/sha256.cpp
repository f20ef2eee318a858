// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <new>

namespace fettle::kit {

struct Sha256::Impl {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~Impl() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  // Fetched once: looking the algorithm up costs more than hashing a small file.
  static EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  if (!impl_->context || !algorithm || EVP_DigestInit_ex(impl_->context, algorithm, nullptr) != 1)
    throw std::bad_alloc();
}
Sha256::~Sha256() = default;

void Sha256::update(const void* data, std::size_t size) { EVP_DigestUpdate(impl_->context, data, size); }

std::string Sha256::hex() {
  std::array<unsigned char, 32> bytes{};
  unsigned size = 0;
  EVP_DigestFinal_ex(impl_->context, bytes.data(), &size);
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char b : bytes) text += {digits[b >> 4], digits[b & 15]};
  return text;
}

std::string sha256_hex(std::string_view text) {
  Sha256 hash;
  hash.update(text);
  return hash.hex();
}

bool is_sha256_hex(std::string_view text) {
  return text.size() == 64 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace fettle::kit
