// The definitions behind {fmt}'s headers, compiled once: the distributions ship no archive of them,
// and in header-only form every file that formats a string takes 2.5 s longer to compile.
#include <fmt/format-inl.h>

template fmt::detail::thousands_sep_result<char> fmt::detail::thousands_sep_impl<char>(
    fmt::detail::locale_ref);
template char fmt::detail::decimal_point_impl<char>(fmt::detail::locale_ref);
