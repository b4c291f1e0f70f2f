# What every scenario needs: settings, checks, reporting, a proxy that falls silent.

require "socket"
require "timeout"
require "uri"

WAIT_SECS = 20
SCENARIO_LIMIT_SECS = 90

class Failed < StandardError; end

class Skipped < StandardError; end

def setting(name, otherwise)
  value = ENV[name]
  value.nil? || value.empty? ? otherwise : value
end

MESSAGES = Integer(setting("INTEROP_MESSAGES", "50000"))

def name(rest)
  setting("INTEROP_PREFIX", "interop-ruby-") + rest
end

def check(condition, otherwise)
  raise Failed, otherwise unless condition
end

def same(what, expected, actual)
  check expected == actual, "#{what}: expected #{expected.inspect}, got #{actual.inspect}"
end

# Takes from a queue, at most WAIT_SECS.
def within(what, queue)
  Timeout.timeout(WAIT_SECS) { queue.pop }
rescue Timeout::Error
  raise Failed, "no #{what} within #{WAIT_SECS} s"
end

# A body whose content shows a lost, doubled or moved stretch.
def pattern(size)
  @pattern_unit ||= (0...251 * 256).map { |i| (i * 31 + i / 251) & 255 }.pack("C*")
  (@pattern_unit * (size / @pattern_unit.bytesize + 1)).byteslice(0, size)
end

def kill_and_restart
  check system(ENV["BROKER_CONTROL"], "kill-restart", out: File::NULL), "kill-restart failed: #{$?}"
end

# Runs the scenarios that the environment asks for and reports each.
def run(scenarios)
  $stdout.sync = true
  only = setting("INTEROP_ONLY", "").split(",")
  scenarios.each do |scenario|
    next unless only.empty? || only.include?(scenario.to_s)

    line = begin
      Timeout.timeout(SCENARIO_LIMIT_SECS) { send(scenario) }
      "PASS #{scenario}"
    rescue Skipped => e
      "SKIP #{scenario}: #{e.message}"
    rescue Failed => e
      "FAIL #{scenario}: #{e.message}"
    rescue Exception => e # rubocop:disable Lint/RescueException -- a timeout in the library is one too
      "FAIL #{scenario}: #{e.class}: #{e.message} at #{e.backtrace&.first}"
    ensure
      close_connections
    end
    puts line.gsub(/\s+/, " ")[0, 500]
  end
  puts "DONE"
  exit!(0)
end

# Forwards bytes between clients and the broker until it is frozen: then nothing passes and nobody is told.
class FreezableProxy
  attr_reader :port

  def initialize(host, port)
    @frozen = false
    server = TCPServer.new("127.0.0.1", 0)
    @port = server.addr[1]
    Thread.new do
      loop do
        client = server.accept
        broker = TCPSocket.new(host, port)
        Thread.new { pump(client, broker) }
        Thread.new { pump(broker, client) }
      end
    end
  end

  def freeze!
    @frozen = true
  end

  private

  def pump(from, to)
    loop do
      bytes = from.readpartial(65_536)
      # Frozen bytes are swallowed, so that no full send buffer gives the silence away.
      to.write(bytes) unless @frozen
    end
  rescue IOError, SystemCallError
    to.close unless @frozen || to.closed?
  end
end
