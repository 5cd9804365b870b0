package keeper;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Properties;
import java.util.UUID;

/**
 * What outlives the process, in a file: the request_id of the session, with which the next run
 * finds it again, and the token of the last item that was handled. For one process at a time.
 */
public final class StateFile {
  private static final String REQUEST_ID = "request_id";
  private static final String TOKEN = "resume_token";

  private final Path path;
  private final Properties kept = new Properties();

  /** Reads the file, if it is there. */
  public StateFile(Path path) throws IOException {
    this.path = path;
    if (Files.exists(path)) {
      try (var reader = Files.newBufferedReader(path)) {
        kept.load(reader);
      }
    }
  }

  /** The request_id of the open that is under way or was answered; a new one is kept before use. */
  public String requestId() throws IOException {
    if (kept.getProperty(REQUEST_ID, "").isEmpty()) {
      kept.setProperty(REQUEST_ID, UUID.randomUUID().toString());
      write();
    }
    return kept.getProperty(REQUEST_ID);
  }

  /** The session has ended: the next open is another one. */
  public void forgetRequest() throws IOException {
    kept.remove(REQUEST_ID);
    write();
  }

  /** Where to continue to watch; empty at first. */
  public String token() {
    return kept.getProperty(TOKEN, "");
  }

  /** Keeps the token of an item that was handled. */
  public void keepToken(String token) throws IOException {
    if (!token.equals(token())) {
      kept.setProperty(TOKEN, token);
      write();
    }
  }

  /** Replaces the file as a whole: half a token would be none. */
  private void write() throws IOException {
    Path fresh = path.resolveSibling(path.getFileName() + ".new");
    try (var writer = Files.newBufferedWriter(fresh)) {
      kept.store(writer, null);
    }
    Files.move(fresh, path, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
  }
}
