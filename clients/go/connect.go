package ibgateway

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const (
	ownerKey = "x-broker-owner"
	tokenKey = "authorization"

	// A page of the largest sessions fits in.
	largestMessage = 16 << 20
	// What a watch that nobody reads holds, at most; gRPC would let it grow to the line's capacity.
	streamWindow = 64 << 10
)

// settings are what the options of Connect decide.
type settings struct {
	owner       *string
	token       *string
	credentials credentials.TransportCredentials
	backoff     Backoff
	repeats     bool
	log         *slog.Logger
	dial        []grpc.DialOption
}

// Option changes how Connect reaches a broker.
type Option func(*settings)

// WithOwner is the name under which sessions are opened, ASCII, at most 128 characters. Without it the
// broker decides: "local", or whom the token or the certificate names. A broker that asks for one of
// these refuses any other name.
func WithOwner(name string) Option { return func(s *settings) { s.owner = &name } }

// WithToken is shown with each call. It is sent over TLS, or to this machine, and never elsewhere.
func WithToken(token string) Option { return func(s *settings) { s.token = &token } }

// WithCredentials is for TLS, such as credentials.NewClientTLSFromFile(ca, "") or
// credentials.NewTLS(config) of google.golang.org/grpc/credentials; without it the connection is plain
// text. A certificate of your own in config is for a broker that asks for one.
func WithCredentials(tls credentials.TransportCredentials) Option {
	return func(s *settings) { s.credentials = tls }
}

// WithBackoff is how long to wait between repeated calls, and before a watch resumes: 0.2 s to 5 s by
// default.
func WithBackoff(b Backoff) Option { return func(s *settings) { s.backoff = b } }

// WithoutRepeats lets every call fail at once. A watch resumes all the same.
func WithoutRepeats() Option { return func(s *settings) { s.repeats = false } }

// WithLogger is where outages, and ends of sessions, are told, instead of slog.Default().
func WithLogger(log *slog.Logger) Option { return func(s *settings) { s.log = log } }

// WithDialOptions are further options of gRPC, such as interceptors and stats handlers; they win over
// those of this package.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.dial = append(s.dial, options...) }
}

// Connect gives a broker that is reached over the network, at HOST:PORT, or unix:PATH. Close it when
// it is used no longer.
//
// Nothing is sent before the first call. A call that finds no broker, or one that cannot serve it now
// and says when to ask again (CIRCUIT_OPEN, GATEWAY_DRAINING, BROKER_DRAINING, STORE_UNAVAILABLE), is
// repeated before its deadline, with a line in the log at level WARN. Not repeated is what a broker has
// answered otherwise, and what is not safe to repeat when nobody has answered.
//
// It fails if the address, the owner, the token or the backoff can be no such thing, or if the token
// would be sent for everybody to read.
func Connect(address string, options ...Option) (*Broker, error) {
	s := settings{backoff: defaultBackoff, repeats: true}
	for _, option := range options {
		option(&s)
	}
	if err := s.check(address); err != nil {
		return nil, err
	}
	c := &connection{address: address, backoff: s.backoff, repeats: s.repeats, log: s.log}
	if c.log == nil {
		c.log = slog.Default()
	}
	if s.token != nil {
		c.metadata = append(c.metadata, tokenKey, "Bearer "+*s.token)
	}
	if s.owner != nil {
		c.metadata = append(c.metadata, ownerKey, *s.owner)
	}
	target := address
	if !strings.HasPrefix(address, "unix:") {
		target = "dns:///" + address // whatever the host is called, it is no scheme
	}
	channel, err := grpc.NewClient(target, s.dialOptions()...)
	if err != nil {
		return nil, fmt.Errorf("ibgateway: %w", err)
	}
	c.attach(channel)
	return newBroker(c), nil
}

func (s *settings) check(address string) error {
	if !isAddress(address) {
		return fmt.Errorf("ibgateway: the address must be HOST:PORT, such as 127.0.0.1:50051, not %q", address)
	}
	if s.owner != nil && (*s.owner == "" || !printable(*s.owner)) {
		return fmt.Errorf("ibgateway: the owner must be a name in printable ASCII, not %q", *s.owner)
	}
	if s.token != nil {
		if *s.token == "" || !printable(*s.token) || strings.Contains(*s.token, " ") {
			// It is not shown: errors end in logs.
			return errors.New("ibgateway: the token must be printable ASCII without blanks: strip the file's end")
		}
		if s.isPlainText() && !isLocal(address) {
			return fmt.Errorf("ibgateway: a token must not be sent to %s in plain text; give credentials for TLS "+
				"by WithCredentials", address)
		}
	}
	return s.backoff.check()
}

func (s *settings) isPlainText() bool {
	return s.credentials == nil || s.credentials.Info().SecurityProtocol == "insecure"
}

func (s *settings) dialOptions() []grpc.DialOption {
	transport := s.credentials
	if transport == nil {
		transport = insecure.NewCredentials()
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		// A broker whose machine has died is noticed within 40 s, also by a call that waits for long.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// A broker that was restarted is found within seconds; gRPC's own limit is two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay:  200 * time.Millisecond,
				Multiplier: 1.6,
				Jitter:     0.2,
				MaxDelay:   2 * time.Second,
			},
			MinConnectTimeout: 5 * time.Second,
		}),
		// What is repeated is decided here, and by no name server.
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largestMessage)),
		grpc.WithStaticStreamWindowSize(streamWindow),
	}
	if s.token != nil && s.isPlainText() {
		options = append(options, grpc.WithNoProxy()) // a proxy is on no way to this machine
	}
	return append(options, s.dial...)
}

// isAddress tells whether this is HOST:PORT or unix:PATH, and nothing more: gRPC would take a part of it.
func isAddress(address string) bool {
	if strings.Contains(address, "://") {
		return false
	}
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return err == nil && number > 0
}

// isLocal tells whether an address is on this machine, whatever a name server says.
func isLocal(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback()
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
}

// printable tells whether a text is printable ASCII, as metadata must be.
func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

// NewUUID is a UUID4, as request ids and correlation ids are.
func NewUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it cannot fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}
