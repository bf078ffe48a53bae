// How the sums of a thread become gates and states: four units of a row at a time, a quad.
#pragma once
#include "gates.cuh"

// A thread has the quads of kQuads rows, kStep apart, in each of kParts packed blocks beside each other.
//
// c is on its way while other quads are computed: kFirst quads' at the beginning, which take registers beside all sums, and
// from then on, since a quad that is done leaves some, up to kMost quads'. Where they are scarce the compiler puts loads off.
// kAdded, but Not: the bias is added to all sums first, an addition more for registers less.
template <int kQuadsOf, int kStepOf>
struct Quads {
    static constexpr int kParts = 1, kQuads = kQuadsOf, kStep = kStepOf;
    static constexpr int kFirst = kQuads < 2 ? kQuads : 2, kMost = 4;
    static constexpr Added kAdded = Added::Not;
};
