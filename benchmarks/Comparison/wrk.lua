-- Arguments: a file of lines "path token", or "path token body" for a POST. Each request asks for the next, beginning anywhere; the last
-- line printed is for the caller.
local requests, next_request = {}, 0

function init(arguments)
    for line in io.lines(arguments[1]) do
        local path, token, body = line:match("(%S+) (%S+) ?(.*)")
        local headers = { ["Authorization"] = "Bearer " .. token }
        if body == "" then
            requests[#requests + 1] = wrk.format("GET", path, headers)
        else
            headers["Content-Type"] = "application/json"
            requests[#requests + 1] = wrk.format("POST", path, headers, body)
        end
    end
    math.randomseed(os.time())
    next_request = math.random(#requests)
end

function request()
    next_request = next_request % #requests + 1
    return requests[next_request]
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format("RESULT %d %d %d %d %d",
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
