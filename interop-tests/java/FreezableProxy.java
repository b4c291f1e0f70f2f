import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

/** Forwards bytes between a client and the broker until it is frozen: then nothing passes and nobody is told. */
final class FreezableProxy implements AutoCloseable {
    private final ServerSocket listener;
    private final List<Socket> sockets = new CopyOnWriteArrayList<>();
    private final String upstreamHost;
    private final int upstreamPort;
    private volatile boolean frozen;

    FreezableProxy(String upstreamHost, int upstreamPort) throws IOException {
        this.upstreamHost = upstreamHost;
        this.upstreamPort = upstreamPort;
        listener = new ServerSocket(0, 8, InetAddress.getLoopbackAddress());
        daemon(this::acceptAll);
    }

    String host() {
        return listener.getInetAddress().getHostAddress();
    }

    int port() {
        return listener.getLocalPort();
    }

    void freeze() {
        frozen = true;
    }

    private void acceptAll() {
        try {
            while (true) {
                Socket client = listener.accept();
                Socket broker = new Socket(upstreamHost, upstreamPort);
                sockets.add(client);
                sockets.add(broker);
                daemon(() -> pump(client, broker));
                daemon(() -> pump(broker, client));
            }
        } catch (IOException closed) {
            // The scenario is over.
        }
    }

    private void pump(Socket from, Socket to) {
        byte[] buffer = new byte[65536];
        try {
            InputStream in = from.getInputStream();
            OutputStream out = to.getOutputStream();
            for (int n = in.read(buffer); n >= 0; n = in.read(buffer)) {
                // Frozen bytes are swallowed, so that no full send buffer gives the silence away.
                if (!frozen) {
                    out.write(buffer, 0, n);
                }
            }
        } catch (IOException closed) {
            // Handled below like an orderly end.
        }
        if (!frozen) {
            closeQuietly(to);
        }
    }

    @Override
    public void close() throws IOException {
        listener.close();
        sockets.forEach(FreezableProxy::closeQuietly);
    }

    private static void daemon(Runnable body) {
        Thread thread = new Thread(body, "proxy");
        thread.setDaemon(true);
        thread.start();
    }

    private static void closeQuietly(Socket socket) {
        try {
            socket.close();
        } catch (IOException ignored) {
            // It is gone either way.
        }
    }
}
