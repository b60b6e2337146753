//! Images, templates, volumes, keys, and the server itself.

use atoll_proto::api::{
    CreateKey, Doctor, Image, ImageList, Key, KeyList, Pruned, PullEvent, PullImage, RollbackTemplate,
    Template, TemplateList, TemplateSpec, Version, VolumeInfo, VolumeList,
};
use futures::Stream;
use reqwest::Method;

use crate::{
    Client, Error,
    client::{json, send},
    sse,
};

impl Client {
    /// The images that the server keeps.
    ///
    /// # Errors
    /// The server refuses or cannot be reached; so for all calls here.
    pub async fn images(&self) -> Result<Vec<Image>, Error> {
        let list: ImageList = self.get(self.api(&["images"])).await?;
        Ok(list.items)
    }

    /// Fetches an image and returns when it can be used.
    ///
    /// # Errors
    /// It cannot be had; the code says why.
    pub async fn pull(&self, request: &PullImage) -> Result<Image, Error> {
        self.post(self.api(&["images"]), request).await
    }

    /// Fetches an image and tells how far it is.
    ///
    /// # Errors
    /// The request is refused. Later failures come as [`PullEvent::Failed`].
    pub async fn pull_stream(
        &self,
        request: &PullImage,
    ) -> Result<impl Stream<Item = Result<PullEvent, Error>> + Send + Unpin + use<>, Error> {
        let response = self.post_for_events(self.api(&["images"]), request).await?;
        Ok(Box::pin(sse::events(response, &["pulling", "ready", "failed"])))
    }

    /// Removes an image that no sandbox uses.
    ///
    /// # Errors
    /// It is in use or not there.
    pub async fn remove_image(&self, reference: &str) -> Result<(), Error> {
        let mut url = self.api(&["images"]);
        url.query_pairs_mut().append_pair("reference", reference);
        self.delete(url).await
    }

    /// Removes what no sandbox uses.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn prune_images(&self) -> Result<Pruned, Error> {
        self.act(self.api(&["images", "prune"])).await
    }

    /// The newest version of each template.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn templates(&self) -> Result<Vec<Template>, Error> {
        let list: TemplateList = self.get(self.api(&["templates"])).await?;
        Ok(list.items)
    }

    /// One version of a template; the newest when absent.
    ///
    /// # Errors
    /// There is no such template or version.
    pub async fn template(&self, name: &str, version: Option<i64>) -> Result<Template, Error> {
        let mut url = self.api(&["templates", name]);
        if let Some(version) = version {
            url.query_pairs_mut().append_pair("version", &version.to_string());
        }
        self.get(url).await
    }

    /// Every version of a template, newest first.
    ///
    /// # Errors
    /// There is no such template.
    pub async fn template_versions(&self, name: &str) -> Result<Vec<Template>, Error> {
        let list: TemplateList = self.get(self.api(&["templates", name, "versions"])).await?;
        Ok(list.items)
    }

    /// Makes the next version of a template.
    ///
    /// # Errors
    /// The recipe is refused; the field is named.
    pub async fn put_template(&self, name: &str, spec: &TemplateSpec) -> Result<Template, Error> {
        json(send(self.request(Method::PUT, self.api(&["templates", name])).json(spec)).await?).await
    }

    /// Makes the recipe of an earlier version the newest again, as a version of its own.
    ///
    /// # Errors
    /// There is no such template or version.
    pub async fn roll_template_back(&self, name: &str, target_version: i64) -> Result<Template, Error> {
        let request = RollbackTemplate { target_version, changelog: None };
        self.post(self.api(&["templates", name, "rollback"]), &request).await
    }

    /// Forgets a template with all its versions. Its sandboxes live on.
    ///
    /// # Errors
    /// There is no such template.
    pub async fn remove_template(&self, name: &str) -> Result<(), Error> {
        self.delete(self.api(&["templates", name])).await
    }

    /// The volumes of every user, or of one.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn volumes(&self, owner: Option<&str>) -> Result<Vec<VolumeInfo>, Error> {
        let mut url = self.api(&["volumes"]);
        if let Some(owner) = owner {
            url.query_pairs_mut().append_pair("owner", owner);
        }
        let list: VolumeList = self.get(url).await?;
        Ok(list.items)
    }

    /// Removes a volume of a user of one's own tenant, with everything on it.
    ///
    /// # Errors
    /// There is no such volume, or a sandbox has it.
    pub async fn remove_volume(&self, owner: &str, name: &str) -> Result<(), Error> {
        self.delete(self.api(&["volumes", owner, name])).await
    }

    /// The API keys, without their secrets.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn keys(&self) -> Result<Vec<Key>, Error> {
        let list: KeyList = self.get(self.api(&["keys"])).await?;
        Ok(list.items)
    }

    /// Makes an API key. Only this answer holds its secret.
    ///
    /// # Errors
    /// The caller may not make keys.
    pub async fn create_key(&self, request: &CreateKey) -> Result<Key, Error> {
        self.post(self.api(&["keys"]), request).await
    }

    /// Revokes an API key, by its id.
    ///
    /// # Errors
    /// There is no such key.
    pub async fn remove_key(&self, id: &str) -> Result<(), Error> {
        self.delete(self.api(&["keys", id])).await
    }

    /// What is right and wrong with the server's machine.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn doctor(&self) -> Result<Doctor, Error> {
        self.get(self.api(&["doctor"])).await
    }

    /// The server's version.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn version(&self) -> Result<Version, Error> {
        self.get(self.api(&["version"])).await
    }

    /// Whether the server can serve now.
    ///
    /// # Errors
    /// It cannot, and says why; or it cannot be reached.
    pub async fn ready(&self) -> Result<(), Error> {
        send(self.request(Method::GET, self.at(&["readyz"]))).await.map(drop)
    }

    /// The server's own description of its API: OpenAPI 3.1, as JSON.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn openapi(&self) -> Result<serde_json::Value, Error> {
        self.get(self.at(&["openapi.json"])).await
    }
}
