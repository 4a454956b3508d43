#include "media/url.h"

#include <gtest/gtest.h>

namespace videre {
namespace {

TEST(Url, ReadsThePartsOfPlainUrls) {
  const auto url = parse_http_url("HTTP://Example.COM.:8080/a/b?c=d#e");
  ASSERT_TRUE(url.ok());
  EXPECT_EQ(url->scheme, "http");
  EXPECT_EQ(url->host, "example.com");
  EXPECT_EQ(url->port, 8080);
  EXPECT_EQ(url->target, "/a/b?c=d");
  EXPECT_EQ(url->authority(), "example.com:8080");
  EXPECT_EQ(parse_http_url("https://example.com?x")->target, "/?x");
  EXPECT_EQ(parse_http_url("https://example.com#x")->target, "/");
  EXPECT_EQ(parse_http_url("https://example.com")->port, 443);
  EXPECT_EQ(parse_http_url("https://[2606:4700::1111]/")->authority(), "[2606:4700::1111]");
}

TEST(Url, RefusesWhatParsersReadDifferently) {
  for (const char* text : {"http://good.example\\@127.0.0.1/",
                           "http://127.0.0.1\\.good.example/",
                           "http://a@b/",
                           "http://a:b@c/",
                           "http://ex ample.com/",
                           "http://example.com/\r\nX: y",
                           "http://example.com/\t",
                           "http://ex\xc3\xa4mple.com/",
                           "http://example.com:0/",
                           "http://example.com:65536/",
                           "http://example.com:-1/",
                           "http://example.com:8o/",
                           "http:///x",
                           "http:example.com",
                           "http://",
                           "http://.example.com/",
                           "http://a..b/",
                           "http://[::1",
                           "http://[::1]x/",
                           "http://[127.0.0.1]/",
                           "http://[fe80::1%25eth0]/",
                           "http://example.com%2f@evil/",
                           "http://exa%6dple.com/",
                           "http://127.1/",
                           "http://0x7f000001/",
                           "http://0x7f.1/",
                           "http://2130706433/",
                           "http://0177.0.0.1/",
                           "http://127.0.0.1.2/",
                           "http://1.2.3/",
                           "http://256.1.1.1/",
                           "ftp://example.com/",
                           "//example.com/",
                           "example.com",
                           "",
                           ":",
                           "javascript:alert(1)"}) {
    EXPECT_FALSE(parse_http_url(text).ok()) << text;
  }
}

TEST(Url, ResolvesRedirects) {
  const Url base = *parse_http_url("http://h.example:81/a/b/c?q=1");
  const auto target = [&](const char* location) {
    const auto url = resolve_redirect(base, location);
    return url.ok() ? url->scheme + "://" + url->authority() + url->target : "refused";
  };
  EXPECT_EQ(target("/x?y"), "http://h.example:81/x?y");
  EXPECT_EQ(target("d"), "http://h.example:81/a/b/d");
  EXPECT_EQ(target("../d"), "http://h.example:81/a/d");
  EXPECT_EQ(target("../../../../d"), "http://h.example:81/d");
  EXPECT_EQ(target("./"), "http://h.example:81/a/b/");
  EXPECT_EQ(target("?z"), "http://h.example:81/a/b/c?z");
  EXPECT_EQ(target("//other.example/x"), "http://other.example/x");
  EXPECT_EQ(target("https://other.example/x"), "https://other.example/x");
  EXPECT_EQ(target("file:///etc/passwd"), "refused");
  EXPECT_EQ(target("data:,x"), "refused");
  EXPECT_EQ(target("http://a@b/"), "refused");
  EXPECT_EQ(target("/a b"), "refused");
}

TEST(Url, KnowsPublicAddresses) {
  for (const char* text :
       {"8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1",
        "192.167.1.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "2001:4860::8888"}) {
    EXPECT_TRUE(is_public_address(*parse_ip(text))) << text;
  }
  for (const char* text :
       {"0.0.0.0",     "0.1.2.3",          "10.0.0.1",        "100.64.0.1",      "100.127.255.255",
        "127.0.0.1",   "127.255.255.255",  "169.254.169.254", "172.16.0.1",      "172.31.255.255",
        "192.0.0.1",   "192.0.2.1",        "192.168.0.1",     "198.18.0.1",      "198.19.255.255",
        "224.0.0.1",   "239.1.1.1",        "240.0.0.1",       "255.255.255.255", "::",
        "::1",         "::ffff:127.0.0.1", "::ffff:8.8.8.8",  "::127.0.0.1",     "64:ff9b::7f00:1",
        "fe80::1",     "fec0::1",          "fc00::1",         "fd00:ec2::254",   "ff02::1",
        "2001:db8::1", "2001::1",          "2002:7f00:1::",   "3fff::1"}) {
    ASSERT_TRUE(parse_ip(text)) << text;
    EXPECT_FALSE(is_public_address(*parse_ip(text))) << text;
  }
  EXPECT_TRUE(is_metadata_host("metadata.google.internal"));
  EXPECT_FALSE(is_metadata_host("example.com"));
}

TEST(Url, DecodesPercents) {
  EXPECT_EQ(*percent_decode("/a%20b%2Fc"), "/a b/c");
  EXPECT_EQ(*percent_decode("%252e"), "%2e");  // once only
  for (const char* text : {"%", "%2", "%zz", "%00"})
    EXPECT_FALSE(percent_decode(text).ok()) << text;
}

}  // namespace
}  // namespace videre
