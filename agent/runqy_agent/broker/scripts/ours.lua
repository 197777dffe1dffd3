-- is_ours: whether a lease is one that this worker asked for. One that ends later belongs to somebody else, who took the
-- task after ours had ended; so does one that ends at another fraction of a second, which every taking has of its own
-- and keeps when it extends its leases.
-- Arguments: ends (the lease as Redis knows it, false for none), held_until (unix seconds; no lease of this worker ends
-- later. It lies ahead where a renewal may overtake the step).
-- Returns: true or false.
local function is_ours(ends, held_until)
  if not ends then return false end
  ends, held_until = tonumber(ends), tonumber(held_until)
  return ends == held_until or (ends < held_until and ends % 1 == held_until % 1)
end
