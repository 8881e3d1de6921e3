-- POST one body again and again; print what was measured as one line of JSON.
-- wrk -s wrk.lua URL -- BODY_FILE CONTENT_TYPE [HEADER_NAME HEADER_VALUE]...

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  file:close()
  wrk.headers["Content-Type"] = args[2]
  for index = 3, #args, 2 do
    wrk.headers[args[index]] = args[index + 1]
  end
  -- The request is written once, not at each call.
  local request_bytes = wrk.format()
  request = function() return request_bytes end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50": %.3f, "p99": %.3f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
