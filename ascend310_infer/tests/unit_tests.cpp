// The main function of the unit tests; `unit_tests --help` lists doctest's options, such as
// `unit_tests --test-case='fuzz*'`.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
