// STREAM in plain OpenMP, to compare with: what one writes by hand for these four loops.
//
//     s23_openmp THREADS SIZE ROUNDS
//
// Prints one JSON object a line: {"kernel": "copy", "seconds": [...]} for each kernel, then {"worst_error": ...}.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

namespace {

constexpr double scalar = 3.0;

double* allocate(long size) {
    return static_cast<double*>(::operator new(static_cast<std::size_t>(size) * sizeof(double), std::align_val_t{64}));
}

void print(const char* kernel, const std::vector<double>& seconds) {
    std::printf("{\"kernel\": \"%s\", \"seconds\": [", kernel);
    for (std::size_t i = 0; i < seconds.size(); ++i) std::printf("%s%.9f", i == 0 ? "" : ", ", seconds[i]);
    std::printf("]}\n");
}

double worst_error(const double* x, long size, double wanted) {
    double worst = 0.0;
#pragma omp parallel for reduction(max : worst)
    for (long i = 0; i < size; ++i) worst = std::max(worst, std::abs(x[i] - wanted));
    return worst / std::abs(wanted);
}

}  // namespace

int main(int count, char** words) {
    if (count != 4) return 2;
    omp_set_num_threads(std::atoi(words[1]));
    const long size = std::atol(words[2]), rounds = std::atol(words[3]);
    double *a = allocate(size), *b = allocate(size), *c = allocate(size);
#pragma omp parallel for
    for (long i = 0; i < size; ++i) a[i] = 1.0, b[i] = 2.0, c[i] = 0.0;

    std::vector<double> copy_s, scale_s, add_s, triad_s;
    double wanted_a = 1.0, wanted_b = 2.0, wanted_c = 0.0;
    for (long round = 0; round < rounds; ++round) {
        double start = omp_get_wtime();
#pragma omp parallel for
        for (long i = 0; i < size; ++i) c[i] = a[i];
        copy_s.push_back(omp_get_wtime() - start);
        start = omp_get_wtime();
#pragma omp parallel for
        for (long i = 0; i < size; ++i) b[i] = scalar * c[i];
        scale_s.push_back(omp_get_wtime() - start);
        start = omp_get_wtime();
#pragma omp parallel for
        for (long i = 0; i < size; ++i) c[i] = a[i] + b[i];
        add_s.push_back(omp_get_wtime() - start);
        start = omp_get_wtime();
#pragma omp parallel for
        for (long i = 0; i < size; ++i) a[i] = b[i] + scalar * c[i];
        triad_s.push_back(omp_get_wtime() - start);

        wanted_c = wanted_a;
        wanted_b = scalar * wanted_c;
        wanted_c = wanted_a + wanted_b;
        wanted_a = wanted_b + scalar * wanted_c;
    }
    print("copy", copy_s);
    print("scale", scale_s);
    print("add", add_s);
    print("triad", triad_s);
    const double worst = std::max({worst_error(a, size, wanted_a), worst_error(b, size, wanted_b),
                                   worst_error(c, size, wanted_c)});
    std::printf("{\"worst_error\": %.3e}\n", worst);
}
