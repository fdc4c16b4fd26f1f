-- read_packed: takes apart one argument that holds five values, two words and three byte strings: 'word word length length
-- first..second..third'.  Plain jobs and plain outcomes send '' in its place: each argument costs time on both sides.
local function read_packed(text)
  local one, two, first, second, at = string.match(text, '^(%S+) (%S+) (%d+) (%d+) ()')
  first = at + tonumber(first)
  second = first + tonumber(second)
  return one, two, string.sub(text, at, first - 1), string.sub(text, first, second - 1), string.sub(text, second)
end
