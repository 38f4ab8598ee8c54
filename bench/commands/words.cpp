// What the command `compile` compiles where there are the standard library and Boost: some hundred headers.
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include <boost/algorithm/string.hpp>
#include <boost/container/flat_map.hpp>

int main() {
    boost::container::flat_map<std::string, int> counts;
    for (std::string line; std::getline(std::cin, line);) {
        std::vector<std::string> words;
        boost::split(words, line, boost::is_space());
        for (std::string &word : words) {
            boost::to_lower(word);
            ++counts[word];
        }
    }
    for (const auto &[word, count] : counts) std::cout << count << ' ' << word << '\n';
}
