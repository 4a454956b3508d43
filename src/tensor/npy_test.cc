#include "tensor/npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

namespace videre {
namespace {

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string with_header(std::string header, const std::string& data, char version = 1) {
  std::string out("\x93NUMPY", 6);
  out += version;
  out += '\0';
  out += static_cast<char>(header.size() & 0xff);
  out += static_cast<char>(header.size() >> 8);
  if (version > 1) out += std::string(2, '\0');
  return out + header + data;
}

std::string error_of(const std::string& text) {
  const auto parsed = parse_npy(bytes_of(text), "a.npy");
  if (parsed.ok()) return "";
  EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument);
  return parsed.error().message;
}

TEST(Npy, WritesWhatNumpyWrites) {
  const float values[6] = {1, 2, 3, 4, 5, 6};
  const std::string text = to_npy(ConstView(values, DType::kF32, Shape{2, 3}));
  // numpy 2.x: numpy.save of the same array.
  std::string expected("\x93NUMPY\x01\x00v\x00", 10);
  expected += "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  expected.append(127 - expected.size(), ' ');
  expected += '\n';
  expected.append(reinterpret_cast<const char*>(values), sizeof(values));
  EXPECT_EQ(text, expected);
}

TEST(Npy, HeadersOfEveryRankEndAtABlock) {
  for (const Shape& shape : {Shape{}, Shape{3}, Shape{0}, Shape{2, 0, 3}, Shape{1, 2, 3, 4}}) {
    const Tensor tensor = make_host_tensor(DType::kU8, shape);
    std::memset(tensor.view().raw(), 7, shape.numel());
    const std::string text = to_npy(tensor);
    EXPECT_EQ((text.size() - shape.numel()) % 64, 0u);
    auto again = parse_npy(bytes_of(text), "a.npy");
    ASSERT_TRUE(again.ok()) << again.error().message;
    EXPECT_EQ(again->shape(), shape);
    EXPECT_EQ(std::memcmp(again->view().raw(), tensor.view().raw(), shape.numel()), 0);
  }
  EXPECT_NE(to_npy(make_host_tensor(DType::kU8, Shape{})).find("'shape': (), }"),
            std::string::npos);
  EXPECT_NE(to_npy(make_host_tensor(DType::kU8, Shape{3})).find("'shape': (3,), }"),
            std::string::npos);
}

TEST(Npy, RoundTripsByDtype) {
  for (const DType dtype : {DType::kF32, DType::kU8, DType::kI32, DType::kI64}) {
    const Tensor tensor = make_host_tensor(dtype, Shape{5, 2});
    for (size_t i = 0; i < tensor.size_bytes(); ++i) {
      tensor.view().data<uint8_t>()[i] = static_cast<uint8_t>(i);
    }
    auto again = parse_npy(bytes_of(to_npy(tensor)), "a.npy");
    ASSERT_TRUE(again.ok()) << again.error().message;
    EXPECT_EQ(again->view().dtype(), dtype);
    EXPECT_EQ(std::memcmp(again->view().raw(), tensor.view().raw(), tensor.size_bytes()), 0);
  }
}

TEST(Npy, WidensBf16AndFollowsStrides) {
  const Tensor tensor = make_host_tensor(DType::kBF16, Shape{2, 3, 4});
  for (int i = 0; i < 24; ++i) tensor.view().data<BF16>()[i] = to_bf16(static_cast<float>(i));
  const View part = tensor.view().slice(1, 1, 3).columns(1, 3);
  auto again = parse_npy(bytes_of(to_npy(part)), "a.npy");
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(again->view().dtype(), DType::kF32);
  ASSERT_EQ(again->shape(), (Shape{2, 2, 2}));
  const float expected[8] = {5, 6, 9, 10, 17, 18, 21, 22};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(again->view().data<float>()[i], expected[i]) << i;
}

TEST(Npy, ReadsOtherSpellings) {
  const std::string data(8, '\1');
  for (const std::string header :
       {"{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }\n",
        "{\"shape\":(1),\"fortran_order\":True,\"descr\":\"<i8\"}",
        "  { 'shape' : ( 1 , 1 , ) , 'descr' : '<i8' , 'fortran_order' : False }  "}) {
    EXPECT_EQ(error_of(with_header(header, data)), "") << header;
    EXPECT_EQ(error_of(with_header(header, data, 2)), "") << header;
  }
}

TEST(Npy, RefusesWithASentence) {
  const std::string good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
  const std::string data(8, '\0');
  ASSERT_EQ(error_of(with_header(good, data)), "");
  EXPECT_NE(error_of("").find("no .npy file"), std::string::npos);
  EXPECT_NE(error_of("PK\3\4 and so on, a zip").find("no .npy file"), std::string::npos);
  EXPECT_NE(error_of(with_header(good, data, 9)).find("version 9"), std::string::npos);
  for (size_t i = 0; i < with_header(good, data).size(); ++i) {
    EXPECT_NE(error_of(with_header(good, data).substr(0, i)), "") << "cut to " << i;
  }
  EXPECT_NE(error_of(with_header(good, data + "x")).find("not what its shape needs"),
            std::string::npos);
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string header = good;
    return error_of(with_header(header.replace(header.find(from), from.size(), to), data));
  };
  EXPECT_NE(replaced("<f4", "<f8").find("'<f8'"), std::string::npos);
  EXPECT_NE(replaced("<f4", ">f4").find("'>f4'"), std::string::npos);
  EXPECT_NE(replaced("False, 'shape': (2,)", "True, 'shape': (2,1)").find("Fortran"),
            std::string::npos);
  EXPECT_NE(replaced("(2,)", "(1,1,1,1,2)").find("5 dims"), std::string::npos);
  for (const std::string shape :
       {"(-2,)", "(2", "(,)", "2", "(2,,)", "(0x2,)", "(2.,)", "(3,)", "(9223372036854775807,)",
        "(99999999999999999999999,)", "(1099511627776,1099511627776,0)",
        "(2147483648,2147483648,2147483648,2)"}) {
    EXPECT_NE(replaced("(2,)", shape), "") << shape;
  }
  EXPECT_NE(replaced("'shape'", "'chape'"), "");
  EXPECT_NE(replaced("'fortran_order': False, ", ""), "");
  EXPECT_NE(replaced("'fortran_order': False", "'descr': '<f4'"), "");
}

TEST(Npy, FilesComeWhole) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "videre_npy_test";
  std::filesystem::create_directories(folder);
  const std::string path = folder / "a.npy";
  const int32_t ids[3] = {5, 6, 7};
  ASSERT_TRUE(write_npy(path, ConstView(ids, DType::kI32, Shape{3})).ok());
  auto again = read_npy(path);
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(again->view().data<int32_t>()[2], 7);
  EXPECT_FALSE(std::filesystem::exists(path + ".part"));

  const auto missing = read_npy(folder / "none.npy");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  const auto directory = read_npy(folder);
  ASSERT_FALSE(directory.ok());
  EXPECT_EQ(directory.error().code, ErrorCode::kInvalidArgument);
  const auto nowhere = write_npy(folder / "none" / "a.npy", ConstView(ids, DType::kI32, Shape{3}));
  ASSERT_FALSE(nowhere.ok());
  EXPECT_NE(nowhere.error().message.find("none"), std::string::npos);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace videre
